"""Samples of a set, opened and prepared in data workers, in order; one that hangs or kills its worker is left out."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

from mmssl.data.crew import Crew
from mmssl.data.shards import Source
from mmssl.data.stream import collate_alone
from mmssl.data.tar import Entry
from mmssl.data.timer import timed
from mmssl.data.watch import Death, Lost, Place, Watch
from mmssl.errors import DamagedError, as_damaged
from mmssl.types import Sample

WORKERS = 2

T = TypeVar("T")
U = TypeVar("U")


@dataclass(slots=True)
class Made(Generic[T]):
    """What was made of one sample, or the error that says why nothing was.

    place: among all samples of the set, from 0. about: its `__key__`, `__shard__` and `__number__`.
    """

    place: int
    about: Sample
    value: T | None = None
    error: DamagedError | None = None


def in_workers(
    source: Source,
    reads: Collection[str],
    make: Callable[[Sample], T],
    *,
    size: int = 1,
    grouped: bool = False,
    workers: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Made[T]]:
    """Yields in order what `make` returns of each sample of a rank's share, or why it returns nothing.

    make: must be picklable, as must what it returns; it gets what `reads` names of a sample, and `__place__`. It raises
    UserError for a sample that cannot be used; every other error ends the iteration.
    size: how many samples a worker makes and sends at a time.
    grouped: whether ranks take turns with this many samples, instead of with each.
    workers: processes, by default 2; 0 for none, which is what a process that may start none does anyway.
    A sample that takes longer than `sample_seconds`, or ends its worker, comes as a DamagedError too.
    """
    parts = batches_in_workers(
        source,
        reads,
        make,
        pickle.dumps,  # not tensor by tensor through shared memory: each would take a file descriptor
        size=size,
        grouped=grouped,
        workers=workers,
        rank=rank,
        world=world,
    )
    for several, packed in parts:
        values = iter(pickle.loads(packed) if packed is not None else ())
        for one in several:
            yield Made(one.place, one.about, next(values)) if one.error is None else one


def batches_in_workers(
    source: Source,
    reads: Collection[str],
    make: Callable[[Sample], T],
    collate: Callable[[list[T]], U],
    *,
    size: int,
    grouped: bool = False,
    workers: int | None = None,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
) -> Iterator[tuple[list[Made[Any]], U | None]]:
    """Yields of every `size` samples what became of each, and what `collate` makes in a worker of the values.

    The latter is None where no sample is whole. start: how many samples are passed over. The rest as `in_workers` has
    it.
    """
    source.check(reads)
    workers = 0 if multiprocessing.current_process().daemon else WORKERS if workers is None else workers
    run = _Pass(source, tuple(reads), make, collate, size, grouped, max(1, workers), rank, world, start)
    if not workers:
        yield from ((part.samples, part.batch) for part in run(0, 0, {}, Watch()))
        return
    source.hold()
    lost, seen = Lost(), [0] * workers
    crew = Crew([partial(run, worker, 0, {}) for worker in range(workers)])
    try:
        while True:
            try:
                part = next(crew)
            except Death as death:
                lost.add(death)
                worker = death.worker
                crew.replace(partial(run, worker, seen[worker], dict(lost.reasons)))
            except StopIteration:
                return
            else:
                seen[part.worker] += 1
                yield part.samples, part.batch
    finally:
        crew.close()


@dataclass(slots=True)
class _Part(Generic[U]):
    """What a worker hands over."""

    worker: int
    samples: list[Made[Any]]
    batch: U | None


@dataclass
class _Pass(Generic[T, U]):
    """One pass over a rank's share: part i of `size` samples is the one of worker i % workers."""

    source: Source
    reads: tuple[str, ...]
    make: Callable[[Sample], T]
    collate: Callable[[list[T]], U]
    size: int
    grouped: bool
    workers: int
    rank: int
    world: int
    start: int

    def __call__(self, worker: int, seen: int, lost: Mapping[Place, str], watch: Watch) -> Iterator[_Part[U]]:
        """Yields a worker's parts after the first `seen`."""
        for part in islice(self._parts(), worker + seen * self.workers, None, self.workers):
            made = [self._made(place, entry, lost, watch) for place, entry in part]
            values = [one.value for one in made if one.error is None]
            for one in made:
                one.value = None
            with timed():
                batch = self.collate(values) if values else None  # type: ignore[arg-type]
            yield _Part(worker, made, batch)

    def _parts(self) -> Iterator[list[tuple[int, Entry]]]:
        turn = self.size if self.grouped else 1
        every = islice(enumerate(self.source.share(0, 1)), self.start, None)
        mine = ((place, entry) for place, entry in every if place // turn % self.world == self.rank)
        while part := list(islice(mine, self.size)):
            yield part

    def _made(self, place: int, entry: Entry, lost: Mapping[Place, str], watch: Watch) -> Made[T]:
        about = {"__key__": entry.key, "__shard__": entry.shard, "__number__": entry.number}
        try:
            if (place,) in lost:
                raise DamagedError(lost[place,])
            with watch.over((place,), f"{entry.key} of {entry.shard}"):
                sample = self.source.open(entry, self.reads)
                with as_damaged():
                    value = self.make({**sample, "__place__": place})
                if watch.careful:
                    collate_alone(value, self.collate)
        except DamagedError as error:
            return Made(place, about, error=error)
        return Made(place, about, value)
