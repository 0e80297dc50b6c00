"""Steps on videos in a data worker: which frames are shown, and what is done to each of them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmssl.errors import DamagedError, LackingError, UserError
from mmssl.schema import Positive, above, at_least, below
from mmssl.transforms.base import Frame, Step
from mmssl.transforms.motion import Motion, draw_paced
from mmssl.transforms.video import Clip, VideoPreprocess, framed


class Shown(NamedTuple):
    """Images (T, H, W, 3) of a window that begins at `start` and lasts `span` seconds, and how they move (h, w)."""

    pictures: np.ndarray
    start: float
    span: float
    motion: Tensor | None = None


@dataclass(kw_only=True)
class Window(Step):
    """Shows a window of a video of its own length, whatever the encoder's is; DamagedError for a shorter clip.

    frames: how many.
    fps: how many there are in a second.
    gap: from one frame to the next, in steps of 1 / fps; drawn from this range, as far as the clip is long enough.
    motion: what windows and gaps are drawn by, as often as there is motion between their first and last frame, and what
        crops are placed by; frames of different shots are never shown together. None draws them alike, anywhere.
    search: seconds of a long clip that are looked through for motion.
    """

    modalities: ClassVar[tuple[str, ...]] = ("video",)
    frames: Positive = 16
    fps: Annotated[float, above(0), below(math.inf)] = 8.0
    gap: tuple[Positive, Positive] = (1, 1)
    motion: Motion | None = None
    search: Annotated[float, above(0)] = 2.0

    def __post_init__(self) -> None:
        if self.gap[0] > self.gap[1]:
            raise UserError(f"window.gap is {self.gap}; expected two ascending numbers")

    def reads(self, prepare: VideoPreprocess) -> VideoPreprocess:
        """Returns the preprocessing of the shortest window."""
        return replace(prepare, frames=self.frames, fps=self.fps / self.gap[0], seconds=None)

    def take(self, clip: Clip, moment: float, *, min_size: int) -> Shown:
        """Takes a window around a moment (s), or near it where motion decides; DamagedError for a clip too short.

        A clip's last frame may be shown for less than the others.
        """
        steps = clip.duration * self.fps + 1e-6
        if steps < self.gap[0] * (self.frames - 0.5):
            length, span = clip.duration, self.gap[0] * self.frames / self.fps
            raise DamagedError("a clip shorter than the window", f"{length:.2f} s, expected {span:.2f} s")
        gaps = [gap for gap in range(self.gap[0], self.gap[1] + 1) if gap * (self.frames - 0.5) <= steps]
        if self.motion is not None:
            return self._moving(clip, moment, gaps, min_size)
        gap = random.choice(gaps) if gaps[1:] else gaps[0]
        start = self._start(clip, moment, gap * self.frames / self.fps)
        times = [start + (i + 0.5) * gap / self.fps for i in range(self.frames)]
        return Shown(clip.frames(times, min_size=min_size), start, gap * self.frames / self.fps)

    def _moving(self, clip: Clip, moment: float, gaps: Sequence[int], min_size: int) -> Shown:
        count = max(gaps[-1] * (self.frames - 1) + 1, int(min(self.search, clip.duration) * self.fps + 1e-3))
        begin = self._start(clip, moment, count / self.fps)
        pictures = clip.frames([begin + (i + 0.5) / self.fps for i in range(count)], min_size=min_size)
        first, gap, motion = draw_paced(pictures, self.frames, gaps, measure=self.motion or "differences")
        start, span = begin + (first + 0.5 - gap / 2) / self.fps, gap * self.frames / self.fps
        return Shown(pictures[first::gap][: self.frames], start, span, motion)

    def _start(self, clip: Clip, moment: float, length: float) -> float:
        """Returns when so many seconds around a moment begin, within the clip."""
        return max(0.0, min(moment - length / 2, clip.duration - length))

    def varies(self) -> bool:
        return False


def windowed_frames(
    clip: Clip, moment: float, prepare: VideoPreprocess, steps: Sequence[Any], *, min_size: int
) -> Shown:
    """Takes the frames that a view shows around a moment (s): by a Window, or as many as the encoder is judged on."""
    for step in steps:
        if isinstance(step, Window):
            return step.take(clip, moment, min_size=min_size)
    span = clip.duration if prepare.span is None else prepare.span
    start = max(0.0, moment - span / 2) if prepare.span else 0.0
    return Shown(clip.frames(prepare.times(clip, start), min_size=min_size), start, span)


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
