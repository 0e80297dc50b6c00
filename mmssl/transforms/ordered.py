"""Frames in time order from a window that moves, cut around the motion; tasks about order shuffle them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mmssl.errors import DamagedError, UserError
from mmssl.schema import Positive, above, at_least
from mmssl.transforms.base import Step
from mmssl.transforms.frames import Window
from mmssl.transforms.motion import Motion, busiest_box, draw_window, motion_maps
from mmssl.transforms.video import Clip, VideoPreprocess

REGION = 1.25  # the busiest square is so much wider than the crop, which is placed anywhere in it


@dataclass(frozen=True)
class Question:
    """Which frames of a clip are shown, and what is asked about their order.

    offsets: of the frames that are taken, in steps of the grid of times, ascending from 0.
    views: which of these each view shows, in the order in which it shows them.
    target: the right answer.
    """

    offsets: Sequence[int]
    views: Sequence[Sequence[int]]
    target: int

    @property
    def order(self) -> Tensor:
        """When each frame that is shown comes among those of its view: (V, T)."""
        return torch.tensor(self.views).argsort().argsort()


@dataclass(kw_only=True)
class OrderedFrames(Step):
    """Takes frames in time order from a window that moves, cuts the same moving place out of all, and asks about them.

    fps: frames per second of the grid of times that frames are taken at.
    search: seconds of a long clip that are looked through for motion.
    side: pixels that a frame's shorter side is scaled down to.
    crop: pixels that are cut of it, and scaled to what the encoder reads.
    motion: what windows and crops are chosen by.
    jitter: each frame's crop is off by up to this many pixels, so that edges do not line up.
    random_times: windows begin and gaps end at random, and a file's first and last frames are left out; without it they
        begin with the file, whose first frame is a key frame, so that the codec's quality tells frames apart.
    """

    modalities: ClassVar[tuple[str, ...]] = ("video",)
    single: ClassVar[bool] = True
    guards: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "jitter": {"jitter": 0},
        "random_times": {"random_times": False},
    }

    fps: Annotated[float, above(0)] = 25.0
    search: Annotated[float, above(0)] = 5.0
    side: Positive = 256
    crop: Positive = 227
    jitter: Annotated[int, at_least(0)] = 5
    motion: Motion = "differences"
    random_times: bool = True

    def __post_init__(self) -> None:
        if self.crop > self.side:
            raise UserError(f"crop is {self.crop} of side {self.side} pixels; expected a crop within the image")

    @property
    def shape(self) -> tuple[int, int]:
        """How many views are shown, and of how many frames."""
        raise NotImplementedError

    @property
    def chance(self) -> float:
        """The accuracy of the best answer that looks at nothing."""
        raise NotImplementedError

    def ask(self) -> Question:
        """Draws a question."""
        raise NotImplementedError

    def by_nearness(self, distances: Tensor) -> Tensor:
        """Returns the target (B,) if frames lie as near in time as they lie apart: distances (B, V, T, T) as shown."""
        raise NotImplementedError

    def reads(self, prepare: VideoPreprocess) -> VideoPreprocess:
        """Returns the preprocessing of as many frames as a view shows."""
        return replace(prepare, frames=self.shape[1], fps=None, seconds=None)

    def steps(self, seconds: tuple[float, float]) -> int:
        """Draws a time between two, in steps of the grid; the longer one where times are not random."""
        return max(1, round((random.uniform(*seconds) if self.random_times else seconds[1]) * self.fps))

    def take(self, clip: Clip, offsets: Sequence[int]) -> np.ndarray:
        """Returns the frames at offsets, steps that ascend from 0, in a window: uint8 (len(offsets), crop, crop, 3)."""
        steps = offsets[-1]
        pictures = clip.frames(self._times(clip.duration, steps), min_size=self.side)
        maps = motion_maps(pictures, measure=self.motion)
        start = draw_window(maps, steps) if self.random_times else 0
        crop = min(self.crop, *pictures.shape[1:3])
        shorter = min(pictures.shape[1:3])
        x, y = (shorter * place for place in busiest_box(maps[start : start + steps], REGION * crop / shorter))
        shift = (REGION - 1) * crop / 2
        place = x + random.uniform(-shift, shift), y + random.uniform(-shift, shift)
        return np.stack([self._cut(pictures[start + offset], place, crop) for offset in offsets])

    def _times(self, duration: float, steps: int) -> list[float]:
        """Returns the grid of times (s) of the part of a clip that is looked through."""
        edge = 1 / self.fps if self.random_times else 0.0
        needed = (steps + 1) / self.fps
        room = duration - 2 * edge
        if room < needed - 1e-6:
            raise DamagedError("clip shorter than the window", f"{duration:.2f} s, expected {needed + 2 * edge:.2f} s")
        length = min(room, max(self.search, needed))
        begin = edge + (random.uniform(0, room - length) if self.random_times else 0.0)
        phase = random.random() if self.random_times else 0.5
        return [begin + (i + phase) / self.fps for i in range(int(length * self.fps + 1e-3))]

    def _cut(self, picture: np.ndarray, centre: tuple[float, float], crop: int) -> np.ndarray:
        """Cuts a square about a centre (x, y), off by the jitter, and within the image."""
        corners = []
        for place, room in zip(centre, (picture.shape[1], picture.shape[0]), strict=True):
            corner = min(max(place - crop / 2, self.jitter), room - crop - self.jitter)  # the jitter needs room
            corner += random.randint(-self.jitter, self.jitter)
            corners.append(round(min(max(corner, 0), room - crop)))
        left, top = corners
        return picture[top : top + crop, left : left + crop]


def windowed(prepare: Any, views: Sequence[Sequence[Any]]) -> Any:
    """Returns the preprocessing of the frames that steps choose; UserError where views would have other windows."""
    every = [step for steps in views for step in steps if isinstance(step, Window | OrderedFrames)]
    if any(step != every[0] for step in every):
        raise UserError(f"views of one video have windows of their own, {every}; expected the same for all")
    return every[0].reads(prepare) if every else prepare


def orders(frames: int) -> list[tuple[int, ...]]:
    """Returns the ways through this many frames, one of each two that are each other's reverse."""
    return [order for order in permutations(range(frames)) if order[0] < order[-1]]


def path_lengths(distances: Tensor) -> Tensor:
    """Returns how long the path through all frames is in each of `orders`: (..., T, T) -> (..., T! / 2)."""
    table = torch.tensor(orders(distances.shape[-1]))
    return distances[..., table[:, :-1], table[:, 1:]].sum(dim=-1)
