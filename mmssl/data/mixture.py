"""Several sources of one task, each with fields of its own, which are drawn from by weight."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Any

from mmssl.data.plan import Mix, Part
from mmssl.data.shards import Source
from mmssl.data.tar import Entry
from mmssl.data.turns import turns
from mmssl.errors import DamagedError, UserError
from mmssl.schema import above, below
from mmssl.types import Sample


class MixedSource(Source):
    """One of the sources in a list of `data`: what a single source has, and how much of it is drawn.

    weight: its share of the samples that are drawn, relative to the others'; by default its number of samples. Either
        all sources have one or none.
    name: what the logs call it, by default its shards as they are written.
    """

    def __init__(
        self,
        *,
        shards: str | list[str],
        fields: dict[str, str | list[str]] | None = None,
        weight: Annotated[float, above(0), below(math.inf)] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(shards=shards, fields=fields)
        self.weight = weight
        self.name = name or (shards if isinstance(shards, str) else ", ".join(shards))


class Mixture(Source):
    """Sources one behind the other as one set, which a loader draws from by their weights.

    Its shards are those of all sources in order, and a sample's number is its place among all. A sample has what its
    own source fills of what is wanted.
    """

    def __init__(self, parts: Sequence[MixedSource]) -> None:
        if not parts:
            raise UserError("data is an empty list; expected at least one source, such as {shards: FOLDER, weight: 1}")
        self.parts = list(parts)
        self.parts = list(parts)
        self.shards = [shard for part in parts for shard in part.shards]
        self.firsts = [0, *accumulate(len(part.shards) for part in parts)]
        self.fields = {}
        self.weights = _weights(self.parts)
        self.names = _unlike([part.name for part in parts])

    @property
    def damaged(self) -> Counter[tuple[str, str]]:  # type: ignore[override]
        """Samples that could not be used, by reason and shard."""
        return sum((part.damaged for part in self.parts), Counter())

    @property
    def counts(self) -> list[int] | None:
        """Samples in each shard, or None where a source's are not known without reading them all."""
        every = [part.counts for part in self.parts]
        return None if None in every else [count for counts in every for count in counts or ()]

    @property
    def broken(self) -> dict[str, int]:
        """Local shards that lack samples -> how many."""
        return {shard: lost for part in self.parts for shard, lost in part.broken.items()}

    def mix(self, length: int) -> Mix:
        """Returns what a plan needs to know of the sources; length: samples of an epoch."""
        parts = [
            Part(first, len(part.shards), tuple(part.counts) if part.counts else None)
            for first, part in zip(self.firsts, self.parts, strict=False)
        ]
        return Mix(tuple(parts), turns(self.weights), length)

    def name_of(self, entry: Entry) -> str:
        """Returns what the logs call the source that a sample comes from."""
        return self.names[entry.source]

    def check_whole(self, most: float) -> None:
        """Raises UserError if more than the ratio `most` of a source's samples is missing."""
        for part in self.parts:
            part.check_whole(most)

    def entries(self, shard: int, *, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Entry]:
        """Yields samples of one shard still encoded, which know their source and their place among all samples."""
        number = bisect_right(self.firsts, shard) - 1
        known = self.counts is not None
        before = sum(part.count or 0 for part in self.parts[:number]) if known else 0
        for entry in self.parts[number].entries(shard - self.firsts[number], start=start, stop=stop, step=step):
            entry.source, entry.number = number, entry.number + before if known and entry.number >= 0 else -1
            yield entry

    def keep(self, entry: Entry, wanted: Collection[str]) -> Entry:
        """Returns the entry without what fills none of the wanted keys in its source."""
        return self.parts[entry.source].keep(entry, wanted)

    def open(self, entry: Entry, wanted: Collection[str]) -> Sample:
        """Decodes the wanted keys as its source does."""
        return self.parts[entry.source].open(entry, wanted)

    def skip(self, entry: Entry, error: DamagedError) -> None:
        """Counts an entry that cannot be used, as its source does."""
        self.parts[entry.source].skip(entry, error)

    def having(self, key: str) -> list[MixedSource]:
        """Returns the sources in which a wanted key is filled; UserError where there is none, or one that says so."""
        found, error = list[MixedSource](), None
        for part in self.parts:
            try:
                part.check({key})
                found.append(part)
            except UserError as raised:
                if key in part.fields:
                    raise
                error = error or raised
        if error and not found:
            raise error
        return found

    def check(self, wanted: Collection[str]) -> None:
        """Raises UserError if a wanted key is filled by no source, or a source fills none or not what it says."""
        used = {id(part) for key in sorted(wanted) for part in self.having(key)}
        for part in self.parts if wanted else ():
            if id(part) not in used:
                part.check(wanted)  # which says what the first lacks


def open_set(options: Mapping[str, Any]) -> Source:
    """Opens what a task reads by checked options: a source, or a mixture of `sources`."""
    if "sources" in options:
        return Mixture([MixedSource(**part) for part in options["sources"]])
    return Source(**options)


def _weights(parts: Sequence[MixedSource]) -> list[float]:
    """Returns the sources' weights, their numbers of samples where none is said."""
    said = [part.weight for part in parts if part.weight is not None]
    if len(said) == len(parts):
        return said
    if said:
        without = next(part.name for part in parts if part.weight is None)
        raise UserError(f"data: the source {without} has no weight and others have; give all of them one, or none")
    for part in parts:
        if not part.count:
            raise UserError(f"data: the number of samples in {part.name} is not known; give every source a weight")
    return [float(part.count or 0) for part in parts]


def _unlike(names: Sequence[str]) -> list[str]:
    """Returns names that differ: those that come again are numbered."""
    return [name if name not in names[:i] else f"{name} ({names[:i].count(name) + 1})" for i, name in enumerate(names)]
