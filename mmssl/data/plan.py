"""Which samples each worker reads, as a pure function of seed, epoch, rank and worker."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass


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
class Plan:
    """One epoch, shared out among slots; slot = rank x workers + worker.

    With known counts, the shuffled shards are one long sequence (further shuffles follow if the epoch is longer than
    the set) and each slot owns a stretch of it, as long as what it must deliver: no sample comes twice, no slot idles.
    With unknown counts, slot k reads shards k, k + slots, ... of an endless shuffled sequence; when slots outnumber
    shards, they share one by stride. `base` tells apart the plans of one epoch that was resumed with other workers.
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

    @property
    def slots(self) -> int:
        """Returns how many workers read, over all ranks."""
        return self.world * self.workers

    def batches_of(self, worker: int) -> int:
        """Returns how many of its rank's batches the worker makes: number w, w + workers, ..."""
        return len(range(worker, self.batches, self.workers))

    def passes(self, slot: int) -> Iterator[list[Segment]]:
        """Yields what a slot reads, pass after pass without end.

        With counts, the first is the stretch that it owns; each later one is the whole set, in replacement of damaged
        samples. Without, each is the slot's share of one pass over the set.
        """
        if self.counts is not None:
            yield list(self._own(slot))
        for number in itertools.count():
            order = self._shuffled(f"pass {number}" if self.counts is None else f"pass {number} of slot {slot}")
            if self.counts is not None:
                yield [Segment(shard, 0, self.counts[shard]) for shard in order]
            elif self.shards >= self.slots:
                first = (slot - number * self.shards) % self.slots
                yield [Segment(shard) for shard in order[first :: self.slots]]
            else:
                place = slot % self.shards
                sharers = len(range(place, self.slots, self.shards))
                yield [Segment(order[place], slot // self.shards, None, sharers)]

    def _own(self, slot: int) -> Iterator[Segment]:
        """Yields the stretch of the epoch's sequence that the slot owns."""
        lengths = [self.batch * self.batches_of(k % self.workers) for k in range(slot + 1)]
        return self._stretch(sum(lengths[:-1]), lengths[-1])

    def _stretch(self, start: int, length: int) -> Iterator[Segment]:
        """Yields what covers `length` samples from `start` on of the endless sequence of shuffled passes."""
        assert self.counts is not None
        passes, start = divmod(start, sum(self.counts))
        for number in itertools.count(passes):
            for shard in self._shuffled(f"pass {number}"):
                count = self.counts[shard]
                if start < count and length:
                    stop = min(count, start + length)
                    yield Segment(shard, start, stop)
                    length -= stop - start
                start = max(0, start - count)
            if not length:
                return

    def _shuffled(self, purpose: str) -> list[int]:
        order = list(range(self.shards))
        random.Random(seed_of(self.seed, self.epoch, self.base, purpose)).shuffle(order)
        return order
