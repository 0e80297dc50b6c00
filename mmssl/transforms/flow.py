"""Optical flow of films: how far, and where to, each pixel moves from one image to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mmssl.errors import LackingError, UserError
from mmssl.schema import Positive, above, at_least, below
from mmssl.transforms.video import VideoPreprocess, to_tensor
from mmssl.types import Preprocess, Span

TALL, LOUDER = 240, 1000.0  # the shorter side of the authors' films, and what motion is multiplied by there


@dataclass
class FlowPreprocess(Preprocess):
    """Takes the optical flow of `frames` + 1 images from the middle of a film, 1 / fps apart.

    It is (2, frames, size, size) float32, in pixels of what is shown: the first channel how far things move to the
    right until the next image, the second how far downwards. A shorter film holds its last image, in which nothing
    moves.

    by: "dis" is OpenCV's dense inverse search (Kroeger et al., ECCV 2016); "raft" leaves it to the encoder, which is
        shown the images, (3, frames + 1, size, size) uint8.
    """

    modality: ClassVar[str] = "flow"

    size: Annotated[int, at_least(16)] = 112
    frames: Positive = 10
    fps: Annotated[float, above(0), below(math.inf)] = 25.0
    by: Literal["dis", "raft"] = "dis"

    @property
    def field(self) -> str:
        return self._field or "video"

    @field.setter
    def field(self, name: str) -> None:
        self._field = name

    @property
    def film(self) -> VideoPreprocess:
        """How the images are taken."""
        return VideoPreprocess(size=self.size, frames=self.frames + 1, fps=self.fps)

    @property
    def span(self) -> float | None:
        return self.film.span

    def __call__(self, raw: Any) -> Tensor:
        return self.of_images(self.film(raw))

    def of_images(self, images: Tensor) -> Tensor:
        """Returns what the encoder is shown of images (3, frames + 1, size, size)."""
        return dense_flow(images) if self.by == "dis" else images

    def duration(self, raw: Any) -> float:
        return self.film.duration(raw)

    def windows(self, raw: Any, spans: Sequence[Span]) -> list[Tensor]:
        return [self.of_images(images) for images in self.film.windows(raw, spans)]

    def items(self, inputs: Any) -> list[Any]:
        return self.film.items(inputs)

    def blank(self) -> Tensor:
        blank = self.film.blank()
        return blank[:2, 1:].float() if self.by == "dis" else blank


def dense_flow(images: Tensor) -> Tensor:
    """Returns the flow (2, T, H, W) between images (3, T + 1, H, W) uint8, as FlowPreprocess has it."""
    cv2 = opencv()
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # it keeps buffers that threads cannot share
    grey = [np.ascontiguousarray(x) for x in (images.float().mean(dim=0) + 0.5).to(torch.uint8).numpy()]
    found = np.stack([search.calc(one, other, None) for one, other in pairwise(grey)])
    return torch.from_numpy(found).movedim(3, 0).contiguous()


def opencv() -> Any:
    """Returns OpenCV, which works in one thread, as a data worker has; UserError where it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise UserError(f"optical flow needs OpenCV ({error}); pip install 'mmssl[flow]'") from None
    cv2.setNumThreads(1)
    return cv2


def motion(pictures: np.ndarray) -> Tensor:
    """Measures the motion from each image (T + 1, H, W, 3) to the next, (T,): the logarithm of its mean length.

    Lengths are those of a film of 240 pixels, as in the code of Sayed et al., GCPR 2018. The mean flow, which is mostly
    the camera's, does not count. Raises LackingError if nothing moves.
    """
    flow = dense_flow(to_tensor(pictures))
    right, down = flow - flow.mean(dim=(2, 3), keepdim=True)
    length = torch.hypot(right, down).mean(dim=(1, 2))
    if not length.any():
        raise LackingError("clip without motion")
    return (LOUDER * TALL / min(pictures.shape[1:3]) * length + 1).log()
