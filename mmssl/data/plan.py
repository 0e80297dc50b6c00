"""Which samples each worker reads, as a pure function of seed, epoch, rank and worker."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from mmssl.data.turns import Turns


def seed_of(*parts: int | str) -> int:
    """Returns 63 bits that depend on every part, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class Segment:
    """Samples start, start + step, ... before stop (None: the end) of a shard."""

    shard: int
    start: int = 0
    stop: int | None = None
    step: int = 1


@dataclass(frozen=True, slots=True)
class Part:
    """One of the sources that a plan reads: its shards, from number `first` on, and the samples of each if known."""

    first: int
    shards: int
    counts: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Mix:
    """The sources of a plan that has several, the turns that they take, and the samples of a whole epoch.

    Turns and passes go on from one epoch to the next: of each source every sample comes once before any comes again,
    however few of it an epoch takes. The shards of one whose counts are not known begin anew with each epoch.
    """

    parts: tuple[Part, ...]
    turns: Turns
    length: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One epoch, shared out among slots; slot = rank x workers + worker.

    With known counts, the shuffled shards are one long sequence (further shuffles follow if the epoch is longer than
    the set) and each slot owns a stretch of it, as long as what it must deliver: no sample comes twice, no slot idles,
    and what an epoch shorter than the set leaves out is other samples each time.
    With unknown counts, slot k reads shards k, k + slots, ... of an endless shuffled sequence; when slots outnumber
    shards, they share one by stride. Where several sources are mixed, the slots own stretches of one sequence of turns,
    and with them stretches of each source's own sequence. `base` tells apart the plans of one epoch that was resumed
    with other workers.
    """

    seed: int
    epoch: int
    base: int
    world: int
    workers: int
    batch: int  # per rank
    batches: int  # per rank
    shards: int
    counts: tuple[int, ...] | None
    mix: Mix | None = None

    @property
    def slots(self) -> int:
        """Returns how many workers read, over all ranks."""
        return self.world * self.workers

    @property
    def parts(self) -> tuple[Part, ...]:
        """Returns the sources: one of all shards, or those that are mixed."""
        return self.mix.parts if self.mix else (Part(0, self.shards, self.counts),)

    def batches_of(self, worker: int) -> int:
        """Returns how many of its rank's batches the worker makes: number w, w + workers, ..."""
        return len(range(worker, self.batches, self.workers))

    def turns(self, slot: int) -> Iterator[int]:
        """Yields the source of each draw of a slot, without end."""
        if self.mix is None:
            return itertools.repeat(0)
        return map(self.mix.turns.source, itertools.count(self._places(slot)[0]))

    def stretch(self, slot: int, source: int = 0) -> tuple[int, int]:
        """Returns where in a source's sequence the slot's stretch begins, and how long it is."""
        start, stop = self._places(slot)
        if self.mix is not None:
            start, stop = (self.mix.turns.until(place)[source] for place in (start, stop))
        return start, stop - start

    def passes(self, slot: int, source: int = 0) -> Iterator[list[Segment]]:
        """Yields what a slot reads of a source, pass after pass without end.

        With counts, the first is the stretch that it owns; each later one is the whole set, in replacement of damaged
        samples. Without, each is the slot's share of one pass over the set.
        """
        part, of = self.parts[source], f" of source {source}" if source else ""
        if part.counts is not None:
            yield list(self._own(slot, source))
        for number in itertools.count():
            if part.counts is not None:
                order = self._shuffled(part, self.epoch, self.base, f"pass {number} of slot {slot}{of}")
                yield [Segment(part.first + shard, 0, part.counts[shard]) for shard in order]
                continue
            order = self._shuffled(part, self.epoch, self.base, f"pass {number}{of}")
            if part.shards >= self.slots:
                first = (slot - number * part.shards) % self.slots
                yield [Segment(part.first + shard) for shard in order[first :: self.slots]]
            else:
                place = slot % part.shards
                sharers = len(range(place, self.slots, part.shards))
                yield [Segment(part.first + order[place], slot // part.shards, None, sharers)]

    def _places(self, slot: int) -> tuple[int, int]:
        """Returns the ends of a slot's stretch of the epoch, or where sources are mixed of the whole run."""
        lengths = [self.batch * self.batches_of(k % self.workers) for k in range(slot + 1)]
        start = sum(lengths[:-1]) + (self.epoch * self.mix.length + self.base if self.mix else 0)
        return start, start + lengths[-1]

    def _own(self, slot: int, source: int) -> Iterator[Segment]:
        """Yields what covers the slot's stretch of a source's endless sequence of shuffled passes."""
        part, (start, length) = self.parts[source], self.stretch(slot, source)
        assert part.counts is not None
        passes, skip = divmod(start, sum(part.counts))
        for number in itertools.count(passes):
            for shard, first, stop in self._pass(part, source, number):
                taken = max(0, min(stop - first - skip, length))
                if taken:
                    yield Segment(part.first + shard, first + skip, first + skip + taken)
                length -= taken
                skip = max(0, skip - (stop - first))
            if not length:
                return

    def _pass(self, part: Part, source: int, number: int) -> list[tuple[int, int, int]]:
        """Returns the shards of one shuffled pass, each with the first of its samples and the end.

        Where the epoch begins anew it begins at any sample of its first shard, whose others come last: what an epoch
        shorter than the set leaves out would else always be the last samples of shards.
        """
        assert part.counts is not None
        when = ("mixed", source) if self.mix else (self.epoch, self.base)
        order = self._shuffled(part, *when, f"pass {number}")
        shards = [(shard, 0, part.counts[shard]) for shard in order]
        first, _, count = shards[0]
        if self.mix or not count:
            return shards
        cut = random.Random(seed_of(self.seed, *when, f"start of pass {number}")).randrange(count)
        return [(first, cut, count), *shards[1:], (first, 0, cut)]

    def _shuffled(self, part: Part, *purpose: int | str) -> list[int]:
        order = list(range(part.shards))
        random.Random(seed_of(self.seed, *purpose)).shuffle(order)
        return order
