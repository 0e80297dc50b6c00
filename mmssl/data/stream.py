"""What runs inside a data worker: reads, shuffles, opens, views and collates its part of each epoch."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch

from mmssl.data.collate import collate
from mmssl.data.plan import Plan, Segment, seed_of
from mmssl.data.report import ENOUGH, IN_A_ROW, Report
from mmssl.data.seeds import restored, seed_all
from mmssl.data.shards import Source
from mmssl.data.shuffle import Shuffle
from mmssl.data.tar import LOST, Entry
from mmssl.data.timer import timed
from mmssl.data.watch import Place, Watch
from mmssl.errors import DamagedError, LackingError, UserError, as_damaged
from mmssl.types import Batch, Sample, View

T = TypeVar("T")


@dataclass(slots=True)
class WorkerBatch:
    """What a worker hands over: a batch, how many draws its slot has made, and what was counted on the way."""

    batch: Batch
    worker: int
    draws: int
    tally: Report = field(default_factory=Report)

    def pin_memory(self) -> WorkerBatch:
        """Returns the worker_batch with its batch in page-locked memory."""
        self.batch = self.batch.pin_memory()
        return self


@dataclass
class Stream:
    """The worker_batches of one worker, epoch after epoch without end, from where a plan had got to.

    plan: the first epoch; `full`: batches of every later one. done: batches of the first that are already delivered.
    draws: how many draws each worker had made for them. lost: (epoch, base, worker, draw) of samples that end their
    workers, with the reasons; they count as damaged and are not opened.
    """

    source: Source
    view: View
    plan: Plan
    rank: int
    full: int
    done: int
    draws: list[int]
    shuffle_bytes: float
    max_damaged: float
    strict: bool
    lost: Mapping[Place, str]

    @property
    def whole(self) -> int:
        """Samples of the set or of an epoch over all ranks, whichever are more."""
        return max(sum(self.plan.counts or ()), self.full * self.plan.batch * self.plan.world)

    def run(self, place: int, watch: Watch) -> Iterator[WorkerBatch]:
        """Yields what the process makes that comes at this place from now on; raises UserError."""
        plan, done = self.plan, self.done
        worker = (place + done) % plan.workers
        slot, draws = _Slot(self, plan, worker, watch), self.draws[worker]
        while True:
            # worker_batches are taken from the processes in turn, so what came before tells which slot comes next
            worker = (worker - plan.batches) % plan.workers
            plan = dataclasses.replace(plan, epoch=plan.epoch + 1, base=0, batches=self.full)
            following = _Slot(self, plan, worker, watch)
            yield from slot.run(done, draws, following)
            slot, done, draws = following, 0, 0


class _Slot:
    """One worker's part of one epoch."""

    def __init__(self, stream: Stream, plan: Plan, worker: int, watch: Watch) -> None:
        self.stream, self.plan, self.worker, self.watch = stream, plan, worker, watch
        self.slot = stream.rank * plan.workers + worker
        self.tally = Report()
        self.in_a_row = 0
        self.shuffles = [self._shuffle(source) for source in range(len(plan.parts))]

    def _shuffle(self, source: int) -> Shuffle:
        """Returns what the slot draws of one source; sources share the buffer by what the epoch needs of them."""
        plan, stream, (_, count) = self.plan, self.stream, self.plan.stretch(self.slot, source)
        whole = plan.batch * plan.batches_of(self.worker)
        purpose = ("order", self.slot, *([source] if source else ()))
        return Shuffle(
            _Reading(stream, plan, self.slot, source).passes(),
            count=count,
            limit=stream.shuffle_bytes * (count / whole if whole else 1),
            order=random.Random(seed_of(plan.seed, plan.epoch, plan.base, *purpose)),
            at_once=plan.epoch == 0 or plan.base > 0,
        )

    def _drawn(self, following: _Slot) -> Iterator[Entry]:
        """Yields what the slot draws, of each source in its turn."""
        pairs = zip(self.shuffles, following.shuffles, strict=True)
        sources = [shuffle.run(after) for shuffle, after in pairs]
        return (next(sources[source]) for source in self.plan.turns(self.slot))

    def run(self, done: int, draws: int, following: _Slot) -> Iterator[WorkerBatch]:
        """Yields the slot's batches after the first `done` of its rank, for which it had made `draws` draws.

        following: what this process draws in the next epoch.
        """
        plan, stream = self.plan, self.stream
        left = plan.batches_of(self.worker) - len(range(self.worker, done, plan.workers))
        entries = itertools.islice(enumerate(self._drawn(following)), draws, None) if left else iter(())
        since = Report()
        for _ in range(left):
            samples: list[Sample] = []
            with restored() if self.watch.alone else nullcontext():
                while len(samples) < plan.batch:
                    draw, entry = next(entries)
                    samples += self._try(entry, draw, since)
                with timed():
                    batch = collate(samples, stream.view)
            for prepare in stream.view.preprocess.values():
                since.notes.update(prepare.take_notes())
            yield WorkerBatch(batch, self.worker, draw + 1, since)
            since = Report()

    def _try(self, entry: Entry, draw: int, since: Report) -> list[Sample]:
        """Returns the viewed sample, or nothing if it is unusable; raises UserError if too many are."""
        stream = self.stream
        place = (self.plan.epoch, self.plan.base, self.worker, draw)
        fault: DamagedError | None = None
        try:
            if place in stream.lost:
                raise DamagedError(stream.lost[place])
            with self.watch.over(place, f"{entry.key} of {entry.shard}"):
                shown = [self._show(entry, draw)]
            fault = self._lack(shown[0])
            self.in_a_row = 0
        except DamagedError as error:
            if stream.strict and not isinstance(error, LackingError):
                raise UserError(f"{entry.key or 'a shard'} of {entry.shard} is unusable: {error}") from None
            shown, fault = [], error
            self.in_a_row += bool(entry.key)  # the samples of a lost shard come all in a row
        for tally in (since, self.tally):
            tally.draw(entry.shard, fault, stream.source.name_of(entry), skipped=not shown)
        if not shown:
            self.tally.check(most=stream.max_damaged, of=stream.whole, known=stream.source.broken)
        if self.in_a_row >= min(IN_A_ROW, max(ENOUGH, 10 * stream.whole)):
            raise UserError(f"{self.in_a_row} samples in a row are unusable: {self.tally.text()}")
        return shown

    def _lack(self, shown: Sample) -> LackingError | None:
        """Returns what a viewed sample lacks of what the task shows."""
        absent = sorted(key for key in self.stream.view.preprocess if not shown.get(key))
        return LackingError(f"a sample without {' and '.join(absent)}") if absent else None

    def _show(self, entry: Entry, draw: int) -> Sample:
        """Decodes and views one sample with generators that depend on its place in the plan alone."""
        seed_all(seed_of(self.plan.seed, self.plan.epoch, self.plan.base, self.slot, draw))
        view = self.stream.view
        sample = self.stream.source.open(entry, view.reads)
        with as_damaged():
            shown = view(sample)
        if not any(shown.get(modality) for modality in view.preprocess):
            raise LackingError(f"a view without {' or '.join(sorted(view.preprocess))}")
        if entry.number >= 0:
            shown["extra"] = {**shown.get("extra", {}), "index": torch.tensor(entry.number)}
        if self.watch.careful:
            collate_alone(shown, partial(collate, view=view))
        return shown


class _Reading:
    """What one slot reads of one source in one epoch, still encoded."""

    def __init__(self, stream: Stream, plan: Plan, slot: int, source: int) -> None:
        self.stream, self.plan, self.slot, self.source = stream, plan, slot, source
        self.empty = 0  # passes in a row without a sample
        self.lengths: list[int] = []  # of the whole shards that were read

    def passes(self) -> Iterator[Iterator[Entry]]:
        """Yields the slot's samples, still encoded, pass after pass, which are read in this order."""
        shards = self.plan.parts[self.source].shards
        for segments in self.plan.passes(self.slot, self.source):
            yield self._read(segments)
            if self.empty > 2 * shards:  # by then it has had its turn at every shard, nearly surely
                raise UserError(
                    f"worker {self.slot} of {self.plan.slots} (ranks x workers) finds no samples left for it in "
                    f"{shards} shards; use fewer workers"
                )

    def _read(self, segments: Iterable[Segment]) -> Iterator[Entry]:
        """Yields samples in the plan's order; a broken shard of unknown length misses as many as the others had."""
        source, wanted = self.stream.source, self.stream.view.reads
        self.empty += 1
        for part in segments:
            given, broken = 0, False
            for entry in source.entries(part.shard, start=part.start, stop=part.stop, step=part.step):
                self.empty = 0 if entry.key else self.empty
                broken = part.stop is None and entry.fault in LOST
                missing = int(statistics.median(self.lengths or [0])) - given if broken else 1
                yield from itertools.repeat(source.keep(entry, wanted), max(1, missing))
                given += 1
            self.lengths += [] if broken else [given]


def collate_alone(sample: T, collate: Callable[[list[T]], Any]) -> None:
    """Collates one sample for nothing, so that if this ends the process it is known by which; leaves no trace."""
    with restored():
        copy.deepcopy(collate)([sample])
