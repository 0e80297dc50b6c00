"""Some samples of a set of shards, by their numbers."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property

import torch

from mmssl.data.shards import Source
from mmssl.data.tar import Entry
from mmssl.errors import DamagedError, UserError
from mmssl.types import Sample

KEPT = 2**28  # bytes of encoded samples that a subset keeps, so that reading it again costs nothing


class Subset(Source):
    """The samples of a source whose numbers (places in the set) are given; they keep the numbers that they had."""

    source: Source
    numbers: set[int]

    def __init__(self, source: Source, numbers: Iterable[int]) -> None:
        self.numbers = set(numbers)
        if isinstance(source, Subset):
            self.numbers &= source.numbers
            source = source.source
        self.source, self.fields, self.damaged = source, source.fields, Counter()
        counts = counted(source)
        ends = list(itertools.accumulate(counts))
        self.places: dict[int, list[int]] = {}  # shard of the source -> places in it
        for number in sorted(self.numbers):
            shard = bisect_right(ends, number)
            self.places.setdefault(shard, []).append(number - ends[shard] + counts[shard])
        self.shards = [source.shards[shard] for shard in self.places]
        self.kept: dict[int, list[Entry]] = {}
        self.room = KEPT

    @cached_property
    def _held(self) -> list[tuple[int, int]] | None:
        """Samples of each shard that belong to the subset; all are taken to be there, for the source was looked at."""
        return [(len(places), len(places)) for places in self.places.values()]

    def entries(self, shard: int, *, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Entry]:
        """Returns samples of one shard still encoded."""
        return itertools.islice(self.kept.get(shard) or self._keeping(shard), start, stop, step)

    def _keeping(self, shard: int) -> Iterator[Entry]:
        """Yields the samples of a shard, and keeps them once all have been read and where there is room for them."""
        found, size, last = list[Entry](), 0, (self.counts or [])[shard]
        for count, entry in enumerate(self._read(shard), 1):
            size += entry.size
            if size <= self.room:
                found.append(entry)
            else:
                found.clear()
            if count == last and size <= self.room and shard not in self.kept:
                self.kept[shard] = found
                self.room -= size
            yield entry

    def hold(self) -> None:
        """Reads the shards whose samples there is room for, so that not each process reads them again."""
        for shard in range(len(self.shards)):
            if shard not in self.kept:
                deque(self.entries(shard), maxlen=0)
            if shard not in self.kept:
                return

    def open(self, entry: Entry, wanted: Collection[str]) -> Sample:
        """Decodes the wanted keys as the source does."""
        return self.source.open(entry, wanted)

    def skip(self, entry: Entry, error: DamagedError) -> None:
        """Counts an entry that cannot be used, as the source does."""
        self.source.skip(entry, error)

    def check(self, wanted: Collection[str]) -> None:
        """Raises UserError if a wanted key is filled by no sample that the source looks at."""
        self.source.check(wanted)

    def _read(self, shard: int) -> Iterator[Entry]:
        number, places = list(self.places.items())[shard]
        wanted = set(places)
        all_between = self.source.entries(number, start=places[0], stop=places[-1] + 1)
        return (entry for place, entry in enumerate(all_between, places[0]) if place in wanted)


def counted(source: Source) -> list[int]:
    """Returns the samples of each shard; UserError where that is not known without reading it all."""
    if source.counts is None:
        raise UserError(
            f"how many samples {source.shards[0]}, ... hold is not known, so that none can be picked; "
            "give them an index.json, as `mmssl shards build` writes it"
        )
    return source.counts


def limited(source: Source, limit: int | None, *, seed: int = 0) -> Source:
    """Returns the source, or where it has more than `limit` samples this many of them, drawn evenly from the seed."""
    if limit is None or sum(counted(source)) <= limit:
        return source
    if limit < 1:
        raise UserError(f"limit is {limit}; expected at least 1")
    drawn = torch.randperm(sum(counted(source)), generator=torch.Generator().manual_seed(seed))[:limit]
    return Subset(source, drawn.tolist())
