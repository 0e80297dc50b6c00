"""The images of a set, opened once and kept in memory, and batches of them in an order of their own each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mmssl.data.in_workers import in_workers
from mmssl.data.mixture import Mixture
from mmssl.data.plan import Plan, seed_of
from mmssl.data.report import Report
from mmssl.data.shards import Source
from mmssl.data.stream import WorkerBatch
from mmssl.errors import LackingError, UserError
from mmssl.limits import refuse
from mmssl.modalities import image
from mmssl.types import Batch, Sample


class Held:
    """Every image of a set whose samples are counted, and which are all of one size.

    key: under which a batch shows them. field: of a sample that holds one. workers: processes that open them.
    pixels: uint8 (N, 3, H, W). numbers: (N,), each sample's place in the set. report: what was counted on the way;
    those that cannot be used are left out, or with `strict` the first raises UserError.
    """

    def __init__(self, source: Source, key: str, field: str, *, workers: int, strict: bool = False) -> None:
        if isinstance(source, Mixture):
            raise UserError("in_memory keeps the images of one source, not of several; leave it out, or join the sets")
        if source.count is None:
            raise UserError(f"in_memory needs the number of samples in {source.shards[0]}, ..., which is not known")
        self.key, self.report = key, Report()
        self.pixels, numbers = torch.empty(0), list[int]()
        for one in in_workers(source, {field}, Whole(field), size=256, workers=workers):
            if strict and one.error is not None and not isinstance(one.error, LackingError):
                raise UserError(f"{one.about['__key__']} of {one.about['__shard__']} is unusable: {one.error}")
            self.report.draw(one.about["__shard__"], one.error, skipped=one.error is not None)
            if one.value is not None:
                self.pixels = self.pixels if numbers else _room(one.value, source)
                self.pixels[len(numbers)] = self._checked(one.value, one.about)
                numbers.append(one.about["__number__"])
        if not numbers:
            raise UserError(f"no image of {source.shards[0]}, ... can be used: {self.report.text()}")
        self.numbers, self.pixels = torch.tensor(numbers), self.pixels[: len(numbers)]

    def _checked(self, array: np.ndarray, about: Sample) -> Tensor:
        found = torch.from_numpy(array).permute(2, 0, 1)
        if found.shape != self.pixels.shape[1:]:
            sizes = " and ".join(f"{x.shape[-1]} x {x.shape[-2]}" for x in (self.pixels, found))
            raise UserError(
                f"in_memory needs images of one size, and there are {sizes} pixels ({about['__key__']} of "
                f"{about['__shard__']}); leave it out, or bring them to one size first"
            )
        return found

    def batches(self, plan: Plan, *, rank: int, done: int, full: int) -> Iterator[WorkerBatch]:
        """Yields a rank's batches of an epoch after the first `done`, and then those of later ones, without end.

        full: batches of every later epoch.
        """
        while True:
            order = _Order(plan, len(self.numbers))
            for number in range(done, plan.batches):
                yield WorkerBatch(self._batch(order.of((number * plan.world + rank) * plan.batch)), 0, 0)
            plan, done = replace(plan, epoch=plan.epoch + 1, base=0, batches=full), 0

    def _batch(self, places: Tensor) -> Batch:
        present = torch.ones(len(places), dtype=torch.bool)
        extra = {f"{self.key}_present": present, "index": self.numbers[places]}
        return Batch({self.key: [self.pixels[places]]}, extra=extra)


class _Order:
    """The order of one epoch: passes over all images, each shuffled, one behind the other.

    A plan that goes on with an epoch begins where the ones before have got to, so that nothing comes twice in a pass.
    """

    def __init__(self, plan: Plan, images: int) -> None:
        self.plan, self.images = plan, images
        self.latest = -1, torch.empty(0)

    def of(self, start: int) -> Tensor:
        """Returns the images (batch,) from the plan's place `start` on."""
        parts, first = list[Tensor](), self.plan.base + start
        last = first + self.plan.batch
        while first < last:
            number, place = divmod(first, self.images)
            parts.append(self._pass(number)[place : place + last - first])
            first += len(parts[-1])
        return torch.cat(parts)

    def _pass(self, number: int) -> Tensor:
        if self.latest[0] != number:
            seed = seed_of(self.plan.seed, self.plan.epoch, "in memory", number)
            self.latest = number, torch.randperm(self.images, generator=torch.Generator().manual_seed(seed))
        return self.latest[1]


@dataclass(frozen=True, slots=True)
class Whole:
    """Makes the pixels uint8 (H, W, 3) of a sample's image, of the size that it has."""

    field: str

    def __call__(self, sample: Sample) -> np.ndarray:
        if sample.get(self.field) is None:
            raise LackingError(f"a sample without {self.field}")
        return np.asarray(image.pixels(image.load(sample[self.field])))


def _room(first: np.ndarray, source: Source) -> Tensor:
    """Returns memory for all images of a set, like the first; UserError where that is more than the limit."""
    assert source.count is not None
    size, (height, width) = source.count * first.nbytes, first.shape[:2]
    told = f"{source.count:,} images of {width} x {height} pixels take {size / 2**30:.2f} GiB in memory"
    refuse("held_bytes", size, f"{told}; leave in_memory out")
    return torch.empty(source.count, 3, height, width, dtype=torch.uint8)
