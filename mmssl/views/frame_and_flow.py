"""A frame of a film, and the optical flow around it: the same part of both."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmssl.errors import DamagedError, UserError
from mmssl.schema import above, at_least, at_most
from mmssl.transforms import flow
from mmssl.transforms.base import Frame, chance
from mmssl.transforms.image import Crop, Flip
from mmssl.transforms.motion import draw_window
from mmssl.transforms.video import framed
from mmssl.types import Preprocess, Sample
from mmssl.views.composed import Composed
from mmssl.views.template import Views

SMALL = 64  # pixels of the shorter side of the images in which motion is looked for


class FrameAndFlow(Composed):
    """Shows the flow of a window of a film, and as an image the frame in its middle, cropped and mirrored alike.

    A window is drawn as often as there is motion in it. Flow is found after cropping and mirroring, so that a mirrored
    film moves the other way. Raises DamagedError for a film shorter than the window, and LackingError where nothing
    moves. Sayed et al., GCPR 2018, by the authors' code.

    search: seconds of a long film that are looked through for motion.
    motion: the power to which the logarithm of motion is raised, as often as which a window is drawn; 0 draws evenly.
    time_flip: the probability that the film runs backwards.
    split_channels: whether the frame is shown in one of its channels, as grey, so that colours are not all it tells.
    """

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        template: Views,
        *,
        search: Annotated[float, above(0)] = 5.0,
        motion: Annotated[float, at_least(0), at_most(10)] = 1.0,
        time_flip: Annotated[float, at_least(0), at_most(1)] = 0.5,
        split_channels: bool = True,
    ) -> None:
        super().__init__(preprocess, template)
        if set(preprocess) != {"image", "flow"}:
            raise UserError(f"this view shows image and flow, found {', '.join(preprocess)}; list an encoder for each")
        self.search, self.motion, self.time_flip, self.split_channels = search, motion, time_flip, split_channels
        if motion or self.prepare["flow"].by == "dis":
            flow.opencv()  # said before a run, not of every film
        self.frame, self.film = self._field("image"), self._field("flow")
        self.reads = (self.film, *(name for name in self.reads if name not in (self.frame, self.film)))

    def __call__(self, sample: Sample) -> Sample:
        if sample.get(self.film) is None:
            return {}
        prepare = self.prepare["flow"]
        pictures = self._window(prepare.film.opened(sample[self.film]))
        frame = Image.fromarray(pictures[prepare.frames // 2])
        shown = super().__call__({**sample, self.film: None, self.frame: frame})
        images = framed(pictures, part_of(shown["places"]["image"][0], pictures, prepare.size))
        shown["flow"] = [prepare.of_images(images.flip(1) if chance(self.time_flip) else images)]
        if self.split_channels:
            shown["image"] = [x[random.randrange(3)].expand(3, -1, -1) for x in shown["image"]]
        return shown

    def _window(self, clip: Any) -> np.ndarray:
        """Draws a window of a film where it moves, and returns its images (frames + 1, H, W, 3)."""
        fps, frames = self.prepare["flow"].fps, self.prepare["flow"].frames
        needed = (frames + 1) / fps
        if clip.duration < needed - 0.5 / fps:
            raise DamagedError("clip shorter than the window", f"{clip.duration:.2f} s, expected {needed:.2f} s")
        length = min(clip.duration, max(self.search, needed))
        begin, phase = random.uniform(0, clip.duration - length), random.random()
        times = [begin + (i + phase) / fps for i in range(max(frames + 1, int(length * fps + 1e-3)))]
        moves = (
            flow.motion(clip.frames(times, min_size=SMALL)) ** self.motion
            if self.motion
            else torch.ones(len(times) - 1)
        )
        start = draw_window(moves[:, None], frames)
        pictures: np.ndarray = clip.frames(times[start : start + frames + 1])
        return pictures


def part_of(place: Tensor, pictures: np.ndarray, size: int) -> Frame:
    """Returns the part of images (T, H, W, 3) that a view's place (2, 3) says, to be shown in size x size pixels."""
    height, width = pictures.shape[1:3]
    (across, _, left), (_, down, top) = place.tolist()
    return Frame(width, height, size, (min(left, left + across), top, abs(across), down), mirrored=across < 0)


# 227 x 227 pixels of 341 x 256.
view = Views(1, fixed=True, kind=FrameAndFlow, image=[Crop(scale=(0.59, 0.59), ratio=(1.0, 1.0)), Flip()])
