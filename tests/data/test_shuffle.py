"""The shuffle buffer: bounded in bytes, in an order of its own for each epoch, and without a pause."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from mmssl.data.shuffle import READS, START, Shuffle, shuffled
from mmssl.data.tar import Entry

WEIGHT = 1000  # bytes that each of these samples counts


class Reads:
    """Passes of samples that are numbered on, and how many were read."""

    def __init__(self, *lengths: int, first: int = 0) -> None:
        self.lengths, self.first, self.count = lengths, first, 0

    def passes(self) -> Iterator[Iterator[Entry]]:
        for number, length in enumerate(self.lengths):
            yield self._pass(self.first + sum(self.lengths[:number]), length)

    def _pass(self, first: int, length: int) -> Iterator[Entry]:
        for number in range(first, first + length):
            self.count += 1
            yield Entry(str(number), "", {"txt": bytes(500)})


def shuffle(reads: Reads, *, count: int, held: float, at_once: bool = False, seed: int = 0) -> Shuffle:
    return Shuffle(reads.passes(), count=count, limit=WEIGHT * held, order=random.Random(seed), at_once=at_once)


def numbers(entries: Iterator[Entry]) -> list[int]:
    return [int(entry.key) for entry in entries]


def test_it_is_bounded_in_bytes() -> None:
    reads = Reads(1000)
    order = shuffled(next(reads.passes()), 100 * WEIGHT, random.Random(0), start=100 * WEIGHT)
    first = next(order)
    assert reads.count == 101, "a hundred of 1000 bytes each are held, not more"
    assert sorted(numbers(itertools.chain([first], order))) == list(range(1000))


def test_the_first_come_out_while_it_fills() -> None:
    """The buffer is drawn from when START of it is full; each draw then reads READS, and one when it is full."""
    reads, other = Reads(2000, 2000), Reads(2000, 2000)
    made = shuffle(reads, count=2000, held=160, at_once=True).run(shuffle(other, count=2000, held=160))
    seen, read = [], []
    for entry in itertools.islice(made, 300):
        seen.append(int(entry.key))
        read.append(reads.count)
    first = round(160 * START) + 1
    assert read[:3] == [first, first + READS, first + 2 * READS]
    full = (160 - round(160 * START)) // (READS - 1)
    assert read[full + 1 : full + 4] == [161 + n for n in range(full + 1, full + 4)], "160 are held then"
    assert max(r - n for n, r in enumerate(read)) == 161
    assert len(set(seen)) == 300 and any(later < sooner for sooner, later in itertools.pairwise(seen))
    assert other.count == 0, "nothing is read ahead before this one empties"


@pytest.mark.parametrize("count", [50, 400])
def test_an_epoch_begins_without_a_pause_and_in_the_order_that_it_has_alone(count: int) -> None:
    held = 100
    epochs = [Reads(count, count, first=1000 * e) for e in range(4)]
    made = [shuffle(reads, count=count, held=held, at_once=not e, seed=e) for e, reads in enumerate(epochs)]
    found: list[list[int]] = []
    for epoch, (now, following) in enumerate(itertools.pairwise(made)):
        found.append([])
        before = sum(reads.count for reads in epochs)
        for entry in itertools.islice(now.run(following), count):
            found[-1].append(int(entry.key))
            total = sum(reads.count for reads in epochs)
            pause = held * START + 2 if len(found[-1]) == 1 else 0
            assert total - before <= max(2 * READS, pause), "no draw waits for many to be read"
            before = total
            kept = total - sum(map(len, found))
            assert kept <= held + 1, "the two buffers together hold no more than one may"
        assert sorted(found[-1]) == list(range(1000 * epoch, 1000 * epoch + count))
    for epoch in (1, 2):
        alone = shuffle(Reads(count, count, first=1000 * epoch), count=count, held=held, seed=epoch)
        assert numbers(itertools.islice(alone.run(made[3]), count)) == found[epoch]


def test_a_pass_is_drawn_before_the_next_which_is_read_meanwhile() -> None:
    reads, other = Reads(30, 30, 30, 30), Reads(30, 30)
    made = shuffle(reads, count=75, held=1000).run(shuffle(other, count=30, held=1000))
    found = numbers(itertools.islice(made, 10))
    assert reads.count == 30 + 30, "the second, at READS for each that was drawn"
    found += numbers(itertools.islice(made, 65))
    assert sorted(found[:30]) == list(range(30)) and sorted(found[30:60]) == list(range(30, 60))
    assert sorted(found[60:]) == list(range(60, 75)), "no more than the epoch needs is in the buffer"
    assert other.count == 30, "and then the next epoch is read"
    assert found[:30] != sorted(found[:30])
    assert sorted(numbers(itertools.islice(made, 15))) == list(range(75, 90)), "the rest replaces damaged ones"


def test_what_replaces_damaged_samples_is_shuffled_and_bounded_too() -> None:
    reads, other = Reads(100, 500), Reads(500, 500)
    made = shuffle(reads, count=100, held=320).run(shuffle(other, count=500, held=320))
    assert sorted(numbers(itertools.islice(made, 100))) == list(range(100))
    assert reads.count == 100
    found = numbers(itertools.islice(made, 60))
    assert len(set(found)) == 60 and found != sorted(found)
    kept = reads.count + other.count - 160
    assert 320 - 320 * START < kept <= 320 + 1


def test_samples_larger_than_the_spare_room_come_in_the_same_order_whatever_was_read_before() -> None:
    """What was read while the epoch before emptied may be more than the buffer by a part of one sample."""
    held = 4.5
    before, reads, again = Reads(10, 10), Reads(40, 40, first=100), Reads(40, 40, first=100)
    following = shuffle(reads, count=40, held=held)
    numbers(itertools.islice(shuffle(before, count=10, held=held, at_once=True).run(following), 10))
    assert reads.count == 5, "of 4219 bytes that the buffers may spare"
    last = shuffle(Reads(10, 10), count=10, held=held)
    found = [numbers(itertools.islice(each.run(last), 40)) for each in (following, shuffle(again, count=40, held=held))]
    assert found[0] == found[1]
