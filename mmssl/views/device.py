"""What views go through on the accelerator, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.numerics.color import as_unit
from mmssl.numerics.geometry import compose
from mmssl.transforms import fields
from mmssl.transforms.base import OnBatch, OnDevice
from mmssl.transforms.color import Linear, recolored
from mmssl.types import Batch


@dataclass
class DeviceSteps:
    """Changes each view by its steps, gives other encoders what they share, and then changes the batch as a whole.

    steps: key -> the steps of each view, of images, videos and sounds.
    moving: key -> what moves with its views, and its kind.
    inputs: those of what moves that an encoder reads, so that they stand among the views.
    followers: key -> the key whose views it is given, and the side in pixels that its encoder reads.
    after: the steps on the whole batch; those on images change every view of every key.
    """

    steps: Mapping[str, Sequence[Sequence[OnDevice]]]
    moving: Mapping[str, Mapping[str, fields.Kind]]
    inputs: frozenset[str]
    followers: Mapping[str, tuple[str, int]]
    after: Sequence[OnBatch | OnDevice]

    def __call__(self, batch: Batch) -> Batch:
        for key, steps in self.steps.items():
            if key in batch.views:
                shown = batch.views[key]  # second sounds go through the steps of the first
                self._change(key, [*steps, *list(steps[-1:]) * (len(shown) - len(steps))], batch)
        for key, (leader, side) in self.followers.items():
            follow(key, leader, side, batch)
        for on_images, group in groupby(self.after, key=lambda step: isinstance(step, OnDevice)):
            if on_images:
                self._change_all(cast("list[OnDevice]", list(group)), batch)
            else:
                batch = self._after(cast("list[OnBatch]", list(group)), batch)
        return batch

    def _after(self, steps: Sequence[OnBatch], batch: Batch) -> Batch:
        for step in steps:
            self._spread(step, batch)
            batch = step.on_batch(batch)
            forget_places(batch)
        return batch

    def _change_all(self, steps: Sequence[OnDevice], batch: Batch) -> None:
        """Changes every view of every key of images and videos by the same steps."""
        for key in [key for key in self.steps if key in batch.views and batch.views[key][0].ndim > 2]:
            count = len(batch.views[key])
            self._change(key, [[step.of_view(n, count) for step in steps] for n in range(count)], batch)

    def _spread(self, step: OnBatch, batch: Batch) -> None:
        """Gives each view that a step makes of a key's only one its place, and what moves with it."""
        for key in self.steps.keys() & batch.places.keys():
            place, shape = batch.places[key][0], batch.views[key][0].shape[-2:]
            changes = step.maps(key, place)
            if not changes:
                continue
            batch.places[key] = [compose(change, place) for change in changes]
            for values, kind in self._moved(key, batch):
                values[:] = [fields.warped(kind, values[0], change, (shape[0], shape[1])) for change in changes]

    def _change(self, key: str, each: Sequence[Sequence[Any]], batch: Batch) -> None:
        """Changes all views of a modality by the steps of each; where any changes, all are floats."""
        active = [[step for step in steps if step.active()] for steps in each]
        if not any(active):
            return
        made: list[Tensor] = []
        with torch.autocast(batch.views[key][0].device.type, enabled=False):  # bfloat16 would round colours
            for numbers in _alike(batch.views[key], active):
                made += self._changed(key, numbers, active[numbers[0]], batch)
        batch.views[key] = made
        forget_places(batch)

    def _changed(self, key: str, numbers: Sequence[int], steps: Sequence[OnDevice], batch: Batch) -> list[Tensor]:
        """Returns views (B, 3, ...) changed by the same steps, in one pass, or the views that a step made of each."""
        parts, views = 0, [batch.views[key][number] for number in numbers]
        shape = (views[0].shape[-2], views[0].shape[-1])
        x: Tensor = views[0] if len(views) == 1 else torch.cat(views)
        for change in in_passes(steps):
            made = change(x)
            if isinstance(made, tuple):
                made, place = made
                if not parts:  # where views of a view lie is not kept
                    for number, part in zip(numbers, place.chunk(len(numbers)), strict=True):
                        self._move(key, number, part, shape, batch)
            if made.ndim > x.ndim:
                parts, made = made.shape[1], made.flatten(0, 1)
            x = made
        each = as_unit(x).chunk(len(numbers))
        return [view for y in each for view in (y.unflatten(0, (-1, parts)).unbind(1) if parts else [y])]

    def _move(self, key: str, number: int, change: Tensor, shape: tuple[int, int], batch: Batch) -> None:
        """Composes a view's place, and moves what moves with it, as its images moved."""
        if key in batch.places:
            batch.places[key][number] = compose(change, batch.places[key][number])
        for values, kind in self._moved(key, batch):
            values[number] = fields.warped(kind, values[number], change, shape)

    def _moved(self, key: str, batch: Batch) -> Iterator[tuple[list[Any], fields.Kind]]:
        """Yields the values, of each view, of what moves with a key's images, and its kind."""
        for name, kind in self.moving[key].items():
            yield batch.views[name] if name in self.inputs else batch.fields[key][name], kind


def _alike(views: Sequence[Tensor], steps: Sequence[Sequence[OnDevice]]) -> list[list[int]]:
    """Returns the numbers of views, in order, those together that follow each other and change alike."""
    groups: list[list[int]] = []
    for number, x in enumerate(views):
        before = groups[-1][0] if groups else number
        alike = (x.shape, x.dtype, steps[number]) == (views[before].shape, views[before].dtype, steps[before])
        if groups and alike and steps[number]:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def followers(fields: Mapping[str, str]) -> dict[str, str]:
    """Returns key -> the first key that reads the same images or videos, from which the device makes its own.

    fields: key -> what it reads of a sample.
    """
    first = {field: key for key, field in reversed(list(fields.items()))}
    return {key: first[field] for key, field in fields.items() if first[field] != key}


def follow(key: str, leader: str, side: int, batch: Batch) -> None:
    """Gives an encoder the views of another that reads the same, at its own size."""
    batch.views[key] = [resized(x, side) for x in batch.views[leader]]
    batch.extra[f"{key}_present"] = batch.present(leader)
    if leader in batch.places:
        batch.places[key] = batch.places[leader]


def forget_places(batch: Batch) -> None:
    """Leaves out where views lie, and what moved with them, where a step made other views without saying it."""
    for key, views in batch.views.items():
        if len(batch.places.get(key, views)) != len(views):
            del batch.places[key]
        for name in [name for name, values in batch.fields.get(key, {}).items() if len(values) != len(views)]:
            del batch.fields[key][name]


def in_passes(steps: Sequence[OnDevice]) -> Iterator[Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]]:
    """Yields what changes a batch, one after the other; linear changes of colour in a row are one."""
    for linear, same in groupby(steps, key=lambda step: isinstance(step, Linear)):
        if linear:
            yield partial(recolored, steps=cast("list[Linear]", list(same)))
        else:
            yield from (partial(_on_floats, step) for step in same)


def _on_floats(step: OnDevice, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    return step.on_device(as_unit(x))


def resized(x: Tensor, size: int) -> Tensor:
    """Scales images (B, 3, H, W) to a side."""
    if x.shape[-1] == size:
        return x
    return F.interpolate(as_unit(x), (size, size), mode="bicubic", antialias=True).clamp(0, 1)
