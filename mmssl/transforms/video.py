"""Video: what an encoder is shown, and the random operations that views are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.modalities import video as clips
from mmssl.schema import Positive, above, below
from mmssl.transforms.base import Frame
from mmssl.transforms.image import FAST, FILTERS, Crop, Interpolation
from mmssl.types import Preprocess, Span

Clip = clips.Video | clips.Frames


@dataclass
class VideoPreprocess(Preprocess):
    """Takes `frames` images evenly from a window in the middle of a clip: uint8 (3, frames, size, size).

    The window lasts `seconds`, or frames / fps, or without either the whole clip.
    A shorter clip holds its last image.
    """

    modality: ClassVar[str] = "video"

    size: Positive = 112
    frames: Positive = 16
    fps: Annotated[float, above(0), below(math.inf)] | None = None
    seconds: Annotated[float, above(0), below(math.inf)] | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and self.seconds is not None:
            raise UserError("a video window is given by fps or by seconds, not by both")

    @property
    def span(self) -> float | None:
        """Seconds that the images cover; None stands for the whole clip."""
        return self.frames / self.fps if self.fps is not None else self.seconds

    def __call__(self, raw: Any) -> Tensor:
        clip = self.opened(raw)
        span = clip.duration if self.span is None else self.span
        pictures = clip.frames(self.times(clip, (clip.duration - span) / 2), min_size=self.size)
        return to_tensor(resized(centre_square(pictures), self.size))

    def opened(self, raw: Any) -> Clip:
        return clips.load(raw)

    def times(self, clip: Clip, start: float) -> list[float]:
        """Returns when the images of a window from `start` on are taken: in the middle of equal parts."""
        return self._moments(start, clip.duration if self.span is None else self.span)

    def _moments(self, start: float, span: float) -> list[float]:
        return [max(0.0, start) + (i + 0.5) * span / self.frames for i in range(self.frames)]

    def duration(self, raw: Any) -> float:
        return self.opened(raw).duration

    def windows(self, raw: Any, spans: Sequence[Span]) -> list[Tensor]:
        lasting = [(start, end, end - start if self.span is None else self.span) for start, end in spans]
        times = [time for start, end, span in lasting for time in self._moments((start + end - span) / 2, span)]
        pictures = self.opened(raw).frames(times, min_size=self.size)
        shown = to_tensor(resized(centre_square(pictures), self.size))
        return [part.contiguous() for part in shown.split(self.frames, dim=1)]

    def frame(self, width: int, height: int) -> Frame:
        """Returns which part of a clip of this size is shown."""
        side = min(width, height)
        return Frame(width, height, self.size, ((width - side) // 2, (height - side) // 2, side, side))

    def items(self, inputs: Any) -> list[Any]:
        """Takes one clip or several: a list, or a 5-D array (N, T, H, W, 3) or tensor (N, 3, T, H, W)."""
        if isinstance(inputs, np.ndarray | Tensor) and inputs.ndim == 5:
            return list(inputs)
        return super().items(inputs)

    def blank(self) -> Tensor:
        return torch.zeros(3, self.frames, self.size, self.size, dtype=torch.uint8)


def to_tensor(pictures: np.ndarray) -> Tensor:
    """Returns uint8 (3, T, H, W) of images (T, H, W, 3)."""
    return torch.from_numpy(pictures).permute(3, 0, 1, 2).contiguous()


def centre_square(pictures: np.ndarray) -> np.ndarray:
    """Cuts the largest square from the middle of images (T, H, W, 3)."""
    height, width = pictures.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pictures[:, top : top + side, left : left + side]


def resized(pictures: np.ndarray, size: int, *, interpolation: Interpolation = "bilinear") -> np.ndarray:
    """Scales images (T, H, W, 3) to (T, size, size, 3): as Pillow does, or all at once, up to 2 of 255 from it."""
    if pictures.shape[1:3] == (size, size):
        return pictures
    if interpolation in FAST:
        x = torch.from_numpy(np.require(pictures, requirements="W")).permute(0, 3, 1, 2)
        return F.interpolate(x, (size, size), mode=interpolation, antialias=True).permute(0, 2, 3, 1).numpy()
    scaled = (Image.fromarray(picture).resize((size, size), FILTERS[interpolation]) for picture in pictures)
    return np.stack([np.asarray(picture) for picture in scaled])


def framed(pictures: np.ndarray, frame: Frame) -> Tensor:
    """Returns what a frame shows of all images (T, H, W, 3) alike: uint8 (3, T, size, size)."""
    left, top, width, height = map(round, frame.box)
    cut = pictures[:, top : top + height, left : left + width]
    shown = resized(cut, frame.size)
    return to_tensor(flip(shown) if frame.mirrored else shown)


def needed_side(crop: Crop, size: int) -> int:
    """Returns the shorter side that a clip must be decoded at, so that the narrowest box still holds `size` pixels."""
    return math.ceil(size / math.sqrt(crop.scale[0] * min(crop.ratio[0], 1 / crop.ratio[1])))


def flip(pictures: np.ndarray) -> np.ndarray:
    """Mirrors left and right."""
    return np.ascontiguousarray(pictures[:, :, ::-1])
