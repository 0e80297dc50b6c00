"""What a view is made of: small steps with options, on one example in a data worker or on a batch on the device."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmssl.errors import UserError
from mmssl.numerics.constants import constant
from mmssl.numerics.geometry import Affine
from mmssl.types import Batch, Preprocess, Transform

Chance = float | tuple[float, ...]
"""A probability, or one for each view."""


def step_name(kind: type) -> str:
    """Returns how recipes call a class of steps: ColorJitter is color_jitter."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower()


@dataclass(kw_only=True)
class Step(Transform):
    """A step whose options are the fields of a dataclass; a field of probabilities may have one for each view.

    single: whether it needs one view, of which it makes others.
    """

    single: ClassVar[bool] = False

    def of_view(self, number: int, views: int) -> Step:
        """Returns the step as one of several views has it; UserError for another number of probabilities."""
        changes = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if "Chance" in str(each.type):
                changes[each.name] = chances(f"{step_name(type(self))}.{each.name}", value, views)[number]
        return replace(self, **changes) if changes else self

    def varies(self) -> bool:
        """Whether chance decides what it does."""
        return True

    @property
    def chance(self) -> float | None:
        """What guessing the target gets right, where it makes one."""
        return None


def one(probability: Chance) -> float:
    """Returns the probability of a step that is one view's."""
    return cast("float", probability)


def chances(name: str, given: Chance, views: int) -> list[float]:
    """Returns a probability for each view; UserError for another number of them, or one outside 0 to 1."""
    found = list(given) if isinstance(given, Sequence) else [given] * views
    if len(found) != views or not all(0 <= p <= 1 for p in found):
        raise UserError(f"{name} is {given}; expected a probability from 0 to 1, or {views}, one for each view")
    return found


def chance(probability: float) -> bool:
    """Draws yes with a probability."""
    return random.random() < probability


def check_range(name: str, value: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    """Returns an option that is an ascending pair within bounds, or raises UserError."""
    if not low <= value[0] <= value[1] <= high:
        raise UserError(f"{name} is {value}; expected two ascending numbers from {low} to {high}")
    return value


@dataclass(slots=True)
class Frame:
    """Which part of a source of width x height pixels is shown: a box (left, top, width, height), mirrored or not.

    size: side of the result in pixels. It is drawn first, and then applied to the image and to all that moves with it.
    motion: how much moves in each cell (h, w) of the source, in proportion to which boxes are placed; None: anywhere.
    """

    width: int
    height: int
    size: int
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    mirrored: bool = False
    motion: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.box[2]:
            self.box = (0.0, 0.0, float(self.width), float(self.height))

    def at(self, width: int, height: int) -> Frame:
        """Returns the same part of the source where it has width x height pixels."""
        across, down = width / self.width, height / self.height
        left, top, wide, high = self.box
        box = (left * across, top * down, wide * across, high * down)
        return replace(self, width=width, height=height, box=box)

    def cut(self, left: float, top: float, width: float, height: float) -> None:
        """Takes a box of what is shown now."""
        if self.mirrored:
            left = self.box[2] - left - width
        self.box = (self.box[0] + left, self.box[1] + top, width, height)

    @property
    def place(self) -> Affine:
        """The map (2, 3) from x and y in 0 to 1 to pixels of the source."""
        left, top, width, height = self.box
        if self.mirrored:
            left, width = left + width, -width
        return np.array([[width, 0, left], [0, height, top]], dtype=np.float32)


@dataclass(slots=True)
class Frames:
    """Which parts of a batch of images are shown, all of width x height pixels: a Frame of each, on the device.

    box: (B, 4) left, top, width, height. mirrored: (B,) bool.
    """

    width: int
    height: int
    size: int
    box: Tensor
    mirrored: Tensor

    @classmethod
    def like(cls, frame: Frame, count: int, device: torch.device) -> Frames:
        """Returns the same frame for so many images."""
        box = constant(tuple(map(float, frame.box)), device).expand(count, -1)
        mirrored = torch.full((count,), frame.mirrored, device=device)
        return cls(frame.width, frame.height, frame.size, box, mirrored)

    def cut(self, box: Tensor) -> None:
        """Takes a box (B, 4) of what is shown of each now."""
        left, top, width, height = box.unbind(1)
        left = torch.where(self.mirrored, self.box[:, 2] - left - width, left)
        self.box = torch.stack([self.box[:, 0] + left, self.box[:, 1] + top, width, height], dim=1)

    @property
    def place(self) -> Tensor:
        """The maps (B, 2, 3) from x and y in 0 to 1 to pixels of the source."""
        left, top, width, height = self.box.unbind(1)
        left, none = torch.where(self.mirrored, left + width, left), torch.zeros_like(left)
        width = torch.where(self.mirrored, -width, width)
        return torch.stack([width, none, left, none, height, top], dim=1).view(-1, 2, 3)


class Geometric(Step):
    """A step that decides which part of an image or video is shown."""

    modalities: ClassVar[tuple[str, ...]] = ("image", "video")

    def draw(self, frame: Frame) -> None:
        """Changes the frame."""
        raise NotImplementedError

    def draw_each(self, frames: Frames) -> None:
        """Changes each frame by a draw of its own, as `draw` does, on the device; for images held in memory."""
        raise NotImplementedError

    @classmethod
    def draws_batches(cls) -> bool:
        """Tells whether the class that says how one frame is drawn says it of a batch too."""
        said = [next(kind for kind in cls.__mro__ if name in vars(kind)) for name in ("draw", "draw_each")]
        return said[0] is said[1] is not Geometric


class OnSource(Step):
    """A step that makes a field of a sample from its whole image, in a data worker, before any part of it is cut.

    The field then moves with every view, in place of one that the sample may have. A class says its name and kind, as
    mmssl.transforms.fields has it, and with `changes` whether it needs the field that the sample has.
    """

    modalities: ClassVar[tuple[str, ...]] = ("image",)
    field: ClassVar[str]
    kind: ClassVar[str]

    @property
    def changes(self) -> bool:
        return False

    def make(self, image: Image.Image, given: Any) -> np.ndarray:
        """Returns the field's values. given: those that the sample has, if it has any."""
        raise NotImplementedError

    def varies(self) -> bool:
        return False


class OnDevice(Step):
    """A step on batches of images or videos (B, 3, ..., H, W), or of sounds (B, samples), on the accelerator."""

    modalities: ClassVar[tuple[str, ...]] = ("image", "video")

    def on_device(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Returns the changed batch, and where pixels moved the maps (B, 2, 3), in 0 to 1, back to what was given.

        A step that makes several views of each image returns (B, V, 3, ...).
        """
        raise NotImplementedError

    def active(self) -> bool:
        """Whether it changes anything; batches that nothing changes stay as they are, uint8."""
        return True

    def varies(self) -> bool:
        return self.active()

    def side(self, given: int) -> int | None:
        """Returns the side in pixels that images must have for it, or None where any will do."""
        return None


class OnBatch(Step):
    """A step on the whole batch on the accelerator, after all others: it may add views, targets and extras."""

    def on_batch(self, batch: Batch) -> Batch:
        """Returns the changed batch."""
        raise NotImplementedError

    def maps(self, key: str, place: Tensor) -> list[Tensor]:
        """Returns for each view that it makes of a key's only one the map (B, 2, 3), in 0 to 1, back to that one.

        None where it says none; then places, and what moves with the images, are left out. place: the view's.
        """
        return []

    def side(self, preprocess: Mapping[str, Preprocess]) -> int | None:
        """Returns the side in pixels that images must have for it, or None where any will do."""
        return None

    def check(self, preprocess: Mapping[str, Preprocess]) -> None:
        """Raises UserError where the encoders' inputs do not suit it."""


class OnWaveform(Step):
    """A step on a sound (samples,) in a data worker."""

    modalities: ClassVar[tuple[str, ...]] = ("audio",)

    def __call__(self, samples: Tensor) -> Tensor:
        raise NotImplementedError
