"""Films and sounds of a set, a few windows of one at a time, so that none need fit into memory."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from mmssl.data.shards import Source
from mmssl.data.tar import Entry
from mmssl.errors import DamagedError, UserError
from mmssl.types import WINDOWS, Sample, Span, window_spans

Length = float | list[str]  # seconds, or why it is not known: reason and detail


@dataclass(slots=True)
class Part(Entry):
    """Some windows of one entry."""

    spans: Sequence[Span] = ()
    detail: str = ""


class Windowed(Source):
    """The samples of a source in parts, each with `__spans__`, at most WINDOWS windows in seconds.

    lengths: of every sample of the source in order.
    """

    def __init__(self, source: Source, lengths: Sequence[Length], *, window: float, stride: float | None) -> None:
        self.source, self.fields, self.shards, self.damaged = source, source.fields, source.shards, Counter()
        self.lengths = lengths
        self.spans = [[] if isinstance(one, list) else window_spans(one, window, stride) for one in lengths]

    @property
    def count(self) -> int:
        """How many parts there are."""
        return sum(max(1, -(-len(spans) // WINDOWS)) for spans in self.spans)

    def share(self, rank: int, world: int) -> Iterator[Entry]:
        """Yields part rank, rank + world, ... of all."""
        every = (part for place, entry in enumerate(self.source.share(0, 1)) for part in self._parts(place, entry))
        return itertools.islice(every, rank, None, world)

    def _parts(self, place: int, entry: Entry) -> Iterator[Part]:
        if place >= len(self.lengths):
            raise UserError(f"{entry.shard} has more samples than before; encode it anew")
        known = entry.key, entry.shard, entry.fields
        length, spans = self.lengths[place], self.spans[place]
        if isinstance(length, list):
            yield Part(*known, length[0], entry.number, detail=length[1])
        for start in range(0, len(spans), WINDOWS):
            yield Part(*known, entry.fault, entry.number, spans=spans[start : start + WINDOWS])

    def open(self, entry: Entry, wanted: Collection[str]) -> Sample:
        """Opens the wanted keys as the source does; DamagedError for a sample of unknown length."""
        assert isinstance(entry, Part)
        if entry.fault:
            raise DamagedError(entry.fault, entry.detail)
        return {**self.source.open(entry, wanted), "__spans__": entry.spans}

    def check(self, wanted: Collection[str]) -> None:
        """Raises UserError as the source does."""
        self.source.check(wanted)

    def skip(self, entry: Entry, error: DamagedError) -> None:
        """Counts an entry that cannot be used, as the source does."""
        self.source.skip(entry, error)

    def hold(self) -> None:
        """Reads ahead what the source reads ahead."""
        self.source.hold()
