"""Frames in time order from a window that moves, cut around the motion; tasks about order shuffle them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmssl.errors import DamagedError, UserError
from mmssl.transforms import video
from mmssl.transforms.image import chance
from mmssl.types import Preprocess, View
from mmssl.views.motion import Motion, busiest_box, draw_window, motion_maps

REGION = 1.25  # the busiest square is so much wider than the crop, which is placed anywhere in it


class Ordered(View):
    """Takes frames in time order from a window that moves and cuts the same moving place out of all.

    fps: frames per second of the grid of times that frames are taken at.
    search: seconds of a long clip that are looked through for motion.
    side: pixels that a frame's shorter side is scaled down to.
    crop: pixels that are cut of it, and scaled to what the encoder reads.
    mirror: the probability of swapping left and right, in all frames alike.
    motion: what windows and crops are chosen by.
    jitter: each frame's crop is off by up to this many pixels, so that edges do not line up.
    split: each frame shows one random channel of its own, as gray, so that colours do not tell (Lee et al., ICCV 2017).
    level: every frame has the same brightness and contrast, so that light which fades does not tell.
    random_times: windows begin and gaps end at random, and a file's first and last frames are left out; without it they
        begin with the file, whose first frame is a key frame, so that the codec's quality tells frames apart.
    """

    guards: Mapping[str, Mapping[str, Any]] = {
        "channel_splitting": {"split": False},
        "level": {"level": False},
        "jitter": {"jitter": 0},
        "random_times": {"random_times": False},
    }

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        search: float,
        crop: int,
        fps: float = 25.0,
        side: int = 256,
        jitter: int = 5,
        mirror: float = 0.5,
        split: bool = True,
        level: bool = True,
        random_times: bool = True,
        motion: Motion = "differences",
    ) -> None:
        super().__init__(preprocess)
        self.prepare: Any = self.preprocess["video"]
        for name, value in {"fps": fps, "search": search, "side": side, "crop": crop}.items():
            if value <= 0:
                raise UserError(f"{name} is {value}; expected more than 0")
        if crop > side:
            raise UserError(f"crop is {crop} of side {side} pixels; expected a crop within the image")
        self.fps, self.search, self.side, self.crop, self.jitter = fps, search, side, crop, jitter
        self.mirror, self.split, self.level = mirror, split, level
        self.random_times, self.motion = random_times, motion

    @property
    def chance(self) -> float:
        """The accuracy of the best answer that looks at nothing."""
        raise NotImplementedError

    def by_nearness(self, distances: Tensor) -> Tensor:
        """Returns the target (B,) if frames lie as near in time as they lie apart: distances (B, V, T, T) as shown."""
        raise NotImplementedError

    def steps(self, seconds: tuple[float, float]) -> int:
        """Draws a time between two, in steps of the grid; the longer one where times are not random."""
        return max(1, round((random.uniform(*seconds) if self.random_times else seconds[1]) * self.fps))

    def take(self, raw: Any, offsets: Sequence[int]) -> np.ndarray:
        """Returns the frames at offsets, steps that ascend from 0, in a window: uint8 (len(offsets), size, size, 3)."""
        clip = self.prepare.opened(raw)
        steps = offsets[-1]
        pictures = clip.frames(self._times(clip.duration, steps), min_size=self.side)
        maps = motion_maps(pictures, measure=self.motion)
        start = draw_window(maps, steps) if self.random_times else 0
        crop = min(self.crop, *pictures.shape[1:3])
        shorter = min(pictures.shape[1:3])
        x, y = (shorter * place for place in busiest_box(maps[start : start + steps], REGION * crop / shorter))
        shift = (REGION - 1) * crop / 2
        place = x + random.uniform(-shift, shift), y + random.uniform(-shift, shift)
        cuts = [self._cut(pictures[start + offset], place, crop) for offset in offsets]
        frames = video.resized(np.stack(cuts), self.prepare.size)
        frames = video.flip(frames) if chance(self.mirror) else frames
        frames = np.stack([one_channel(frame) for frame in frames]) if self.split else frames
        return np.stack([leveled(frame) for frame in frames]) if self.level else frames

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


def one_channel(frame: np.ndarray) -> np.ndarray:
    """Shows one random channel of a frame (H, W, 3) three times."""
    return frame[:, :, random.randrange(3), None].repeat(3, axis=2)


def leveled(frame: np.ndarray) -> np.ndarray:
    """Brings a frame (H, W, 3) to mean 128 and standard deviation 50."""
    unit = (frame - frame.mean()) / max(frame.std(), 1.0)
    return (128 + 50 * unit).clip(0, 255).astype(np.uint8)


def orders(frames: int) -> list[tuple[int, ...]]:
    """Returns the ways through this many frames, one of each two that are each other's reverse."""
    return [order for order in permutations(range(frames)) if order[0] < order[-1]]


def path_lengths(distances: Tensor) -> Tensor:
    """Returns how long the path through all frames is in each of `orders`: (..., T, T) -> (..., T! / 2)."""
    table = torch.tensor(orders(distances.shape[-1]))
    return distances[..., table[:, :-1], table[:, 1:]].sum(dim=-1)
