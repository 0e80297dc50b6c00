"""One pass over a set in order, each sample once, as the encoders' preprocessing shows it: for clustering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice

import torch

from mmssl.data.collate import collate
from mmssl.data.crew import Crew
from mmssl.data.shards import Source
from mmssl.data.stream import WorkerBatch, collate_alone
from mmssl.data.tar import Entry
from mmssl.data.timer import timed
from mmssl.data.watch import Death, Lost, Place, Watch
from mmssl.errors import DamagedError
from mmssl.types import Batch, Preprocess, Sample, View


class Plain(View):
    """Shows each modality once, as its encoder's preprocessing makes it."""

    def __call__(self, sample: Sample) -> Sample:
        shown = {key: [make(sample[key])] for key, make in self.preprocess.items() if sample.get(key) is not None}
        return {**shown, "extra": {"index": torch.tensor(sample["__number__"])}} if shown else {}


class FullPass:
    """Batches of every whole sample of a rank's share, shared out among data workers; damaged ones are left out."""

    def __init__(
        self, source: Source, preprocess: Mapping[str, Preprocess], *, batch: int, rank: int = 0, world: int = 1
    ) -> None:
        self.source, self.view = source, Plain(preprocess)
        self.batch, self.rank, self.world = batch, rank, world

    def batches(self, *, workers: int) -> Iterator[Batch]:
        """Yields them, made by so many processes, or by this one for 0."""
        self.source.check(self.view.reads)
        if not workers:
            yield from (worker_batch.batch for worker_batch in self._run(0, 1, 0, {}, Watch()))
            return
        lost, seen = Lost(), [0] * workers
        crew = Crew([partial(self._run, place, workers, 0, {}) for place in range(workers)])
        try:
            while True:
                try:
                    worker_batch = next(crew)
                except Death as death:
                    lost.add(death)
                    place = death.worker
                    crew.replace(partial(self._run, place, workers, seen[place], dict(lost.reasons)))
                except StopIteration:
                    return
                else:
                    seen[worker_batch.worker] = worker_batch.draws
                    yield worker_batch.batch
        finally:
            crew.close()

    def _run(
        self, place: int, workers: int, seen: int, lost: Mapping[Place, str], watch: Watch
    ) -> Iterator[WorkerBatch]:
        """Yields what one of several processes makes of its share after the first samples, which were seen."""
        mine = self.source.share(self.rank * workers + place, self.world * workers)
        samples: list[Sample] = []
        draw = seen - 1
        for draw, entry in islice(enumerate(mine), seen, None):
            if (place, draw) not in lost:
                with suppress(DamagedError), watch.over((place, draw), f"{entry.key} of {entry.shard}"):
                    samples += filter(None, [self._show(entry, watch)])
            if len(samples) == self.batch:
                yield self._parcel(samples, place, draw + 1)
                samples = []
        if samples:
            yield self._parcel(samples, place, draw + 1)

    def _show(self, entry: Entry, watch: Watch) -> Sample:
        shown = self.view(self.source.open(entry, self.view.reads))
        if shown and watch.careful:
            collate_alone(shown, self.view)
        return shown

    def _parcel(self, samples: list[Sample], place: int, seen: int) -> WorkerBatch:
        with timed():
            return WorkerBatch(collate(samples, self.view), place, seen)
