"""Images: what an encoder is shown, and the random operations that views are made of."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mmssl.errors import UserError
from mmssl.modalities import image as pictures
from mmssl.modalities import video as clips
from mmssl.schema import Positive, above, at_most
from mmssl.transforms.base import Chance, Frame, Frames, Geometric, chance, check_range, one
from mmssl.transforms.motion import draw_place
from mmssl.types import Preprocess, Span

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
FAST = ("bilinear", "bicubic")  # those that torch knows as well
TRIES = 10  # boxes of a crop that may not fit
SMALL = 128**2  # pixels of a box below which Pillow takes less time than the call of torch
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
# Images whose longer side would be more than this many times what is shown are cut before they are scaled, which rounds
# otherwise than scaling first, as torchvision does.
LONGEST = 64


@dataclass
class ImagePreprocess(Preprocess):
    """Resizes an image (or the middle frame of a clip) and cuts its centre: uint8 (3, size, size).

    resize: "shorter" scales the shorter side to size / crop_ratio and keeps the shape, "squash" scales both.
    corner: where half a pixel is left, what is cut begins at the "even" one, as in torchvision, or the one "before", as
        in transformers.
    """

    modality: ClassVar[str] = "image"

    size: Positive = 224
    resize: Literal["shorter", "squash"] = "shorter"
    interpolation: Interpolation = "bicubic"
    crop_ratio: Annotated[float, above(0), at_most(1)] = 1.0
    corner: Literal["even", "before"] = "even"

    def __call__(self, raw: Any) -> Tensor:
        # Twice the size is decoded, so that the filter, not the JPEG's own shrinking, decides what is seen.
        pixels = pictures.decoded(opened(raw), min_size=2 * self.target)
        (width, height), (left, top) = self._scaled(pixels.size)
        if pixels.size == (width, height):
            return to_tensor(pixels.cut(left, top, left + self.size, top + self.size))
        image = pixels.image
        if max(width, height) > LONGEST * self.size:  # scaled whole, a line of pixels would take gigabytes
            box = _source_box(image.size, (width, height), (left, top, left + self.size, top + self.size))
            return to_tensor(image.resize((self.size, self.size), FILTERS[self.interpolation], box=box))
        image = image.resize((width, height), FILTERS[self.interpolation])
        if (width, height) != (self.size, self.size):
            image = image.crop((left, top, left + self.size, top + self.size))
        return to_tensor(image)

    @property
    def target(self) -> int:
        """What the shorter side, or both, are scaled to, in pixels."""
        return max(self.size, math.floor(self.size / self.crop_ratio))

    def _scaled(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns the size that an image of (width, height) is scaled to, and the corner of what is then cut."""
        target = self.target
        width, height = (target, target) if self.resize == "squash" else _shorter(size, target)
        cut = round if self.corner == "even" else math.floor
        return (width, height), (cut((width - self.size) / 2), cut((height - self.size) / 2))

    def frame(self, width: int, height: int) -> Frame:
        """Returns which part of an image is shown."""
        scaled, (left, top) = self._scaled((width, height))
        corners = (left, top, left + self.size, top + self.size)
        left, top, right, bottom = _source_box((width, height), scaled, corners)  # type: ignore[assignment]
        return Frame(width, height, self.size, (left, top, right - left, bottom - top))

    def duration(self, raw: Any) -> float:
        return clips.load(raw).duration

    def windows(self, raw: Any, spans: Sequence[Span]) -> list[Tensor]:
        """Returns the image in the middle of each window of a clip."""
        times = [(start + end) / 2 for start, end in spans]
        return [self(picture) for picture in clips.load(raw).frames(times, min_size=2 * self.target)]

    def items(self, inputs: Any) -> list[Any]:
        """Takes one image or several: a list, or a 4-D array (N, H, W, 3) or tensor (N, 3, H, W)."""
        if isinstance(inputs, np.ndarray | Tensor) and inputs.ndim == 4:
            return list(inputs)
        return super().items(inputs)

    def blank(self) -> Tensor:
        return torch.zeros(3, self.size, self.size, dtype=torch.uint8)


def _shorter(size: tuple[int, int], target: int) -> tuple[int, int]:
    width, height = size
    if width <= height:
        return target, int(target * height / width)
    return int(target * width / height), target


def _source_box(
    size: tuple[int, int], scaled: tuple[int, int], box: tuple[int, int, int, int]
) -> tuple[float, float, float, float]:
    """Returns where a box (left, top, right, bottom) of the scaled image lies in the image of `size`."""
    across, down = size[0] / scaled[0], size[1] / scaled[1]
    return box[0] * across, box[1] * down, min(box[2] * across, size[0]), min(box[3] * down, size[1])


def opened(raw: Any, *, time: float | None = None) -> Image.Image:
    """Opens an image; of a clip, the one shown at a time (s), by default in its middle."""
    if hasattr(raw, "frames"):
        return Image.fromarray(raw.frames([raw.duration / 2 if time is None else time])[0])
    return pictures.load(raw)


def to_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """Returns uint8 (3, H, W)."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())  # in torch 1.7 times slower


@dataclass(kw_only=True)
class Crop(Geometric):
    """Cuts a random box and scales it to a square. Szegedy et al., CVPR 2015.

    In videos whose `window` has `motion`, a box lies somewhere as often as there is motion in it.

    scale: the box's share of the area.
    ratio: its width over its height.
    size: side of the result in pixels, or below 1 as a share of what the encoder reads; by default just that.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    size: float | None = None

    def __post_init__(self) -> None:
        check_range("crop.scale", self.scale, 0.01, 1.0)
        check_range("crop.ratio", self.ratio, 0.1, 10.0)
        if self.size is not None and not (0 < self.size < 1 or (self.size >= 1 and self.size == int(self.size))):
            raise UserError(f"crop.size is {self.size}; expected whole pixels, or a share below 1")

    def draw(self, frame: Frame) -> None:
        width, height = round(frame.box[2]), round(frame.box[3])
        left, top, w, h = random_box(width, height, scale=self.scale, ratio=self.ratio)
        if frame.motion is not None:
            left, top = map(round, draw_place(frame.motion, width, height, (w, h)))
        frame.cut(left, top, w, h)

    def draw_each(self, frames: Frames) -> None:
        frames.cut(random_boxes(*frames.box[:, 2:].round().unbind(1), scale=self.scale, ratio=self.ratio))

    def side(self, given: int) -> int:
        """Returns the side of the result, where an encoder reads `given` pixels."""
        if self.size is None:
            return given
        return round(given * self.size) if self.size < 1 else int(self.size)

    def varies(self) -> bool:
        return self.scale[0] < 1


@dataclass(kw_only=True)
class Flip(Geometric):
    """Mirrors left and right.

    p: the probability.
    """

    p: Chance = 0.5

    def draw(self, frame: Frame) -> None:
        frame.mirrored ^= chance(one(self.p))

    def draw_each(self, frames: Frames) -> None:
        frames.mirrored = frames.mirrored ^ (torch.rand_like(frames.box[:, 0]) < one(self.p))

    def varies(self) -> bool:
        return 0 < one(self.p) < 1


def framed(image: Image.Image, frame: Frame, *, interpolation: Interpolation = "bicubic") -> Tensor:
    """Returns what a frame shows, uint8 (3, size, size); an unread JPEG is decoded no larger than that needs."""
    left, top, width, height = frame.box
    needed = math.ceil(frame.size * min(frame.width, frame.height) / min(width, height))
    pixels = pictures.decoded(image, min_size=needed)
    across, down = pixels.size[0] / frame.width, pixels.size[1] / frame.height
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    if interpolation in FAST and width * height > SMALL and all(float(edge).is_integer() for edge in box):
        return _scaled(pixels.cut(*map(int, box)), frame, interpolation)
    cut = pixels.image.resize((frame.size, frame.size), FILTERS[interpolation], box=box)
    return to_tensor(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if frame.mirrored else cut)


def _scaled(cut: np.ndarray, frame: Frame, interpolation: str) -> Tensor:
    """Scales as Pillow does, up to 2 of 255, in a third of its time where the processor has AVX2."""
    x = torch.from_numpy(cut).permute(2, 0, 1)[None]
    x = F.interpolate(x, (frame.size, frame.size), mode=interpolation, antialias=True)[0]
    return x.flip(2).contiguous() if frame.mirrored else x.contiguous()


def random_box(
    width: int, height: int, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draws (left, top, width, height); after TRIES boxes that do not fit, the largest that does, anywhere.

    So the square crops of a wide image, which are never 90% of its area, still move about.
    """
    for _ in range(TRIES):
        area = width * height * random.uniform(*scale)
        shape = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    shape = min(max(width / height, ratio[0]), ratio[1])
    w, h = max(1, min(width, round(height * shape))), max(1, min(height, round(width / shape)))
    return random.randint(0, width - w), random.randint(0, height - h), w, h


def random_boxes(width: Tensor, height: Tensor, *, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Draws boxes (B, 4) as random_box does, of parts of width and height (B,), on their device without a wait."""
    sides = torch.stack([width, height], dim=1)[:, :, None]  # (B, 2, 1)
    area = width[:, None] * height[:, None] * torch.empty(len(width), TRIES, device=width.device).uniform_(*scale)
    shape = torch.empty_like(area).uniform_(math.log(ratio[0]), math.log(ratio[1])).exp()
    tried = torch.stack([area * shape, area / shape], dim=1).sqrt().round()  # (B, 2, TRIES), width and height
    shape = (width / height).clamp(*ratio)
    largest = torch.stack([height * shape, width / shape], dim=1)[:, :, None].round().minimum(sides).clamp(min=1)
    tried = torch.cat([tried, largest], dim=2)
    first = ((tried > 0) & (tried <= sides)).all(dim=1).int().argmax(dim=1)  # the earliest, as argmax has it
    size = tried.gather(2, first[:, None, None].expand(-1, 2, 1))
    room = sides - size
    corner = (torch.rand_like(room) * (room + 1)).floor().minimum(room)  # whose product may be rounded up
    return torch.cat([corner, size], dim=1)[:, :, 0]
