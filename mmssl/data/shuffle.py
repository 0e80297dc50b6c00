"""Shuffling through a buffer of bounded size, with no pause where an epoch or a pass over the set begins.

The first samples come out while the buffer fills; what comes next is read while the buffer empties.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from mmssl.data.tar import Entry

OVERHEAD = 500  # bytes that Python needs to hold an entry besides its data
START = 1 / 16  # of the buffer, that is filled before the first sample comes out
READS = 4  # samples that are read at most for one that comes out


class Shuffle:
    """The samples that one worker draws in one epoch, in random order.

    passes: each the samples of one pass over what the worker reads, one behind the other without end; what is drawn
    together is of one pass.
    count: samples that the epoch needs if none is damaged.
    limit: bytes of the buffer.
    at_once: whether the first samples come out of a buffer of START of that, which then grows, and not out of a full
    one: where there is no epoch before, during which it could be filled.
    """

    def __init__(
        self, passes: Iterable[Iterable[Entry]], *, count: int, limit: float, order: random.Random, at_once: bool
    ) -> None:
        self._passes = map(_Ahead, passes)
        self._now, self._left = next(self._passes), count
        self._limit, self._order, self._at_once = limit, order, at_once

    def read(self, room: float) -> None:
        """Reads a few of the first samples before they are drawn, as far as there is room for so many bytes."""
        self._now.read(room, self._left)

    def run(self, following: Shuffle) -> Iterator[Entry]:
        """Yields the samples; those that replace damaged ones, behind the `count` first, come out of a small buffer.

        following: the next epoch's, which is read while the buffer empties.
        """
        spare, after = self._limit * START, _Ahead(())
        while self._left:
            after = next(self._passes)

            def read_on(held: int, after: _Ahead = after) -> None:
                room = self._limit - spare - held
                after.read(room, self._left) if self._left else following.read(room)

            start, self._at_once = spare if self._at_once else self._limit, False
            yield from shuffled(self._counted(), self._limit, self._order, start=start, meanwhile=read_on)
            if self._left:
                self._now = after
        for entries in itertools.chain((self._now, after), self._passes):
            yield from shuffled(entries, spare, self._order, start=spare)

    def _counted(self) -> Iterator[Entry]:
        """Yields of the present pass as many as the epoch still needs."""
        for entry in itertools.islice(self._now, self._left):
            self._left -= 1
            yield entry


def shuffled(
    entries: Iterable[Entry],
    limit: float,
    order: random.Random,
    *,
    start: float,
    meanwhile: Callable[[int], None] = lambda held: None,
) -> Iterator[Entry]:
    """Yields entries in random order out of a buffer of at most `limit` bytes.

    start: bytes that it holds when the first comes out; READS are then read for each, until it is full.
    meanwhile: called with the bytes that are left, each time that one comes out and none is read in its place.
    """
    buffer, held, most = list[Entry](), 0, start
    for entry in entries:
        buffer.append(entry)
        held += _weight(entry)
        while held > most:
            held -= (weight := _weight(out := _pick(buffer, order)))
            most = min(limit, most + (READS - 1) * weight)
            yield out
    while buffer:
        held -= _weight(out := _pick(buffer, order))
        meanwhile(held)
        yield out


class _Ahead(Iterator[Entry]):
    """Samples, of which some are read before they are asked for."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._rest, self._ready, self._held = iter(entries), deque[Entry](), 0

    def __next__(self) -> Entry:
        return self._ready.popleft() if self._ready else next(self._rest)

    def read(self, room: float, most: int) -> None:
        """Reads a few more, up to so many, as long as they are of fewer bytes than there is room for."""
        for entry in itertools.islice(self._rest, READS if self._held < room and len(self._ready) < most else 0):
            self._ready.append(entry)
            self._held += _weight(entry)
            if self._held >= room or len(self._ready) >= most:
                return


def _weight(entry: Entry) -> int:
    return entry.size + OVERHEAD


def _pick(buffer: list[Entry], order: random.Random) -> Entry:
    place = order.randrange(len(buffer))
    buffer[place], buffer[-1] = buffer[-1], buffer[place]
    return buffer.pop()
