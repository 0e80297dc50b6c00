"""Steps on videos in a data worker: which frames are shown, and what is done to each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mmssl.errors import DamagedError, LackingError
from mmssl.schema import Positive, above, at_least, below
from mmssl.transforms.base import Frame, Step
from mmssl.transforms.video import Clip, VideoPreprocess, framed


@dataclass(kw_only=True)
class Window(Step):
    """Shows a window of a video of its own length, whatever the encoder's is; DamagedError for a shorter clip.

    frames: how many.
    fps: how many there are in a second.
    """

    modalities: ClassVar[tuple[str, ...]] = ("video",)
    frames: Positive = 16
    fps: Annotated[float, above(0), below(math.inf)] = 8.0

    def reads(self, prepare: VideoPreprocess) -> VideoPreprocess:
        """Returns the preprocessing of this window."""
        return replace(prepare, frames=self.frames, fps=self.fps, seconds=None)

    def check(self, clip: Clip) -> None:
        """Raises DamagedError for a clip that is too short; its last frame may be shown for less than the others."""
        span = self.frames / self.fps
        if clip.duration < span - 0.5 / self.fps:
            raise DamagedError("a clip shorter than the window", f"{clip.duration:.2f} s, expected {span:.2f} s")

    def varies(self) -> bool:
        return False


class OnFrames(Step):
    """A step on the frames of a video, uint8 (3, T, H, W), in a data worker."""

    modalities: ClassVar[tuple[str, ...]] = ("video",)

    def __call__(self, frames: Tensor) -> Tensor:
        raise NotImplementedError


def filmed(pictures: np.ndarray, frame: Frame, steps: Sequence[Any]) -> Tensor:
    """Returns what a frame shows of images (T, H, W, 3), changed by the steps on frames: uint8 (3, T, size, size)."""
    x = framed(pictures, frame)
    for step in steps:
        x = step(x) if isinstance(step, OnFrames) else x
    return x


@dataclass(kw_only=True)
class SplitChannels(OnFrames):
    """Shows one random channel of each frame, as grey, so that colours do not tell frames apart.

    Lee et al., ICCV 2017.
    """

    def __call__(self, frames: Tensor) -> Tensor:
        channels = torch.randint(3, (frames.shape[1],))
        return frames[channels, range(frames.shape[1])].expand(3, -1, -1, -1)


@dataclass(kw_only=True)
class Level(OnFrames):
    """Brings every frame to mean 128 and standard deviation 50, so that light which fades does not tell them apart."""

    def __call__(self, frames: Tensor) -> Tensor:
        x = frames.double()  # so that the fractions that are cut off below are right
        centred = x - x.mean((0, 2, 3), keepdim=True)
        deviation = centred.square().mean((0, 2, 3), keepdim=True).sqrt()
        return (128 + 50 * (centred / deviation.clamp(min=1.0))).clamp(0, 255).to(torch.uint8)

    def varies(self) -> bool:
        return False


@dataclass(kw_only=True)
class Colorful(OnFrames):
    """Refuses videos without colour: LackingError.

    chroma: spread of the channels, 0 to 255, that a hundredth of the pixels must reach.
    """

    chroma: Annotated[float, at_least(0)] = 12.0

    def __call__(self, frames: Tensor) -> Tensor:
        if np.percentile((frames.amax(dim=0) - frames.amin(dim=0)).numpy(), 99) < self.chroma:
            raise LackingError("a clip without colour")
        return frames

    def varies(self) -> bool:
        return False
