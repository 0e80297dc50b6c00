"""Which samples each worker reads: a stretch of one shuffled sequence, another in every epoch."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator

import pytest

from mmssl.data.plan import Plan, Segment, seed_of


def plan(**changed: object) -> Plan:
    """Two ranks of two workers, which make five batches of four each: 40 of a set's 41 samples."""
    made = Plan(seed=1, epoch=2, base=0, world=2, workers=2, batch=4, batches=5, shards=4, counts=(7, 20, 3, 11))
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


def sequence(made: Plan) -> list[tuple[int, int]]:
    """Returns (shard, place) of what the slots own, one slot after the other."""
    parts = [next(made.passes(slot)) for slot in range(made.slots)]
    return [(s.shard, place) for part in parts for s in part for place in range(s.start, s.stop or 0, s.step)]


def nth(passes: Iterator[list[Segment]], number: int) -> list[Segment]:
    return next(itertools.islice(passes, number, None))


def shards_of(places: list[tuple[int, int]]) -> list[int]:
    return [shard for shard, _ in itertools.groupby(places, key=lambda place: place[0])]


def test_a_slot_owns_what_it_delivers() -> None:
    made = plan()
    assert [made.batches_of(worker) for worker in range(2)] == [3, 2]
    lengths = [sum((s.stop or 0) - s.start for s in next(made.passes(slot))) for slot in range(4)]
    assert lengths == [12, 8, 12, 8]


def test_stretches_make_one_shuffled_sequence_of_whole_shards() -> None:
    begun = set()
    for epoch in range(8):
        made = plan(epoch=epoch)
        found, counts = sequence(made), made.counts or ()
        order = list(dict.fromkeys(shard for shard, _ in found))
        assert sorted(order) == [0, 1, 2, 3]
        whole = [(shard, place) for shard in order for place in range(counts[shard])]
        cut = whole.index(found[0])
        assert cut < counts[order[0]], "it begins in the first shard, and what stands before comes last"
        assert found == [*whole[cut:], *whole[:cut]][:40]
        begun.add(cut)
    assert len(begun) > 2, "it begins at any sample"


@pytest.mark.parametrize("counts", [(10,), (10, 10, 10)])
@pytest.mark.parametrize("batches", [1, 2, 9])
def test_epochs_shorter_than_the_set_draw_every_sample_as_often(counts: tuple[int, ...], batches: int) -> None:
    made = {"world": 1, "workers": 1, "batch": len(counts), "batches": batches, "shards": len(counts), "counts": counts}
    drawn = Counter(place for epoch in range(2000) for place in sequence(plan(epoch=epoch, **made)))
    expected = 2000 * len(counts) * batches / sum(counts)
    assert len(drawn) == sum(counts)
    assert all(abs(times - expected) < 5 * expected**0.5 for times in drawn.values())


def test_an_epoch_longer_than_the_set_goes_on_with_another_shuffle() -> None:
    made = plan(batches=40)
    found = sequence(made)
    assert len(found) == 320
    rounds = [found[start : start + 41] for start in range(0, 320, 41)]
    assert all(len(set(part)) == len(part) for part in rounds), "each sample once before any comes again"
    assert len({tuple(dict.fromkeys(shards_of(part))) for part in rounds[:-1]}) > 2


@pytest.mark.parametrize("option", ["seed", "epoch", "base"])
def test_the_order_of_shards_depends_on(option: str) -> None:
    made = [plan(**{option: value}, shards=10, counts=(4,) * 10) for value in range(5)]
    assert len({tuple(shards_of(sequence(one))) for one in made}) == 5
    assert len({tuple(segment.shard for segment in nth(one.passes(0), 1)) for one in made}) == 5


def test_the_order_is_shared_by_every_rank_and_worker() -> None:
    shared = [sequence(plan(world=w, workers=n, batches=40 // (4 * w))) for w, n in [(1, 1), (2, 1), (1, 3), (2, 5)]]
    assert all(other == shared[0] for other in shared)


def test_damaged_samples_are_replaced_out_of_whole_passes() -> None:
    made = plan()
    later = list(itertools.islice(made.passes(3), 1, 4))
    for part in later:
        assert sorted((s.shard, s.start, s.stop, s.step) for s in part) == [
            (shard, 0, count, 1) for shard, count in enumerate(made.counts or ())
        ]
    assert len({tuple(s.shard for s in part) for part in later}) > 1
    first = [s.shard for s in later[0]]
    assert any([s.shard for s in nth(made.passes(k), 1)] != first for k in range(3))


@pytest.mark.parametrize("shards", [4, 5, 7])
def test_of_unknown_counts_a_slot_reads_every_so_manieth_shard_of_an_endless_sequence(shards: int) -> None:
    made = plan(shards=shards, counts=None)
    for number in range(4):
        parts = [nth(made.passes(slot), number) for slot in range(4)]
        assert sorted(s.shard for part in parts for s in part) == list(range(shards)), "each shard once a pass"
        assert {(s.start, s.stop, s.step) for part in parts for s in part} == {(0, None, 1)}
        # place p of the endless sequence belongs to slot p % 4
        places = Counter(place % 4 for place in range(number * shards, (number + 1) * shards))
        assert [len(part) for part in parts] == [places[slot] for slot in range(4)]


def test_slots_beyond_the_shards_share_one_by_stride() -> None:
    made = plan(shards=3, counts=None, world=2, workers=4)  # 8 slots: 3, 3 and 2 for a shard each
    parts = [next(made.passes(slot)) for slot in range(8)]
    assert all(len(part) == 1 for part in parts)
    by_shard: dict[int, list[tuple[int, int]]] = {}
    for (part,) in parts:
        by_shard.setdefault(part.shard, []).append((part.start, part.step))
    assert sorted(map(sorted, by_shard.values())) == [
        [(0, 2), (1, 2)],
        [(0, 3), (1, 3), (2, 3)],
        [(0, 3), (1, 3), (2, 3)],
    ]


def test_seeds_depend_on_every_part_and_on_their_order() -> None:
    seeds = {seed_of(*parts) for parts in itertools.product(range(5), range(5), ("a", "b"))} | {
        seed_of(1),
        seed_of("1"),
    }
    assert len(seeds) == 52
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**61
