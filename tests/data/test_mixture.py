"""Mixing sources: their counts, their passes, processes that share them out, resume, fields, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from numbered import loader, number_set, numbers, write_tar

from mmssl.data.full_pass import FullPass
from mmssl.data.loader import Loader
from mmssl.data.mixture import MixedSource, Mixture
from mmssl.data.plan import Mix, Part, Plan
from mmssl.data.turns import turns
from mmssl.errors import UserError


def texts(folder: Path, first: int, counts: list[int], field: str = "txt") -> str:
    """Writes shards of numbers from `first` on."""
    folder.mkdir()
    for i, count in enumerate(counts):
        values = [(n, str(n) if field == "txt" else json.dumps({"say": str(n)})) for n in range(first, first + count)]
        write_tar(folder / f"{i}.tar", [{"__key__": f"k{n}", field: value.encode()} for n, value in values])
        first += count
    return str(folder)


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """A: 60 numbers from 0 on in three shards; B: 40 from 1000 on in one, called otherwise."""
    return [texts(tmp_path / "a", 0, [20, 30, 10]), texts(tmp_path / "b", 1000, [40], "json")]


def mixed(two: list[str], weights: tuple[float | None, float | None] = (0.7, 0.3), **options: int) -> Loader:
    a = MixedSource(shards=two[0], weight=weights[0])
    b = MixedSource(shards=two[1], weight=weights[1], fields={"text": "json.say"}, name="bees")
    return loader(Mixture([a, b]), **options)


def of_b(found: list[int]) -> list[int]:
    return [n for n in found if n >= 1000]


@pytest.mark.parametrize("workers", [0, 3])
def test_each_batch_holds_the_sources_by_weight_and_every_sample_comes_once_a_pass(
    two: list[str], workers: int
) -> None:
    made = mixed(two, batch=10, workers=workers)
    assert len(made) == 10, "an epoch has as many samples as all sources together"
    batches = [batch for epoch in range(4) for batch in made.epoch(epoch)]
    share = [len(of_b(numbers([batch]))) for batch in batches]
    assert set(share) <= {2, 3, 4} and sum(share) == 120
    counted = Counter(numbers(batches))
    assert {counted[n] for n in range(1000, 1040)} == {3}, "120 of 40 samples: three passes, over epochs of 30"
    assert {counted[n] for n in range(60)} == {4, 5}
    assert made.report()["sources"] == {two[0]: 280, "bees": 120}


def test_without_weights_each_sample_comes_once_an_epoch(two: list[str]) -> None:
    found = numbers(mixed(two, (None, None), batch=10, workers=2).epoch(0))
    assert sorted(found) == [*range(60), *range(1000, 1040)]
    assert found != sorted(found)


def test_processes_share_one_sequence_out(two: list[str]) -> None:
    """Whoever delivers it, an epoch is of the same samples, and no two deliver the same one."""
    whole = Counter(numbers(mixed(two, batch=20, workers=0).epoch(1)))
    for world, workers in ((2, 0), (2, 1), (1, 2)):
        ranks = [mixed(two, batch=20 // world, workers=workers, rank=rank, world=world) for rank in range(world)]
        found = [n for rank in ranks for n in numbers(rank.epoch(1))]
        assert Counter(found) == whole
        assert len(of_b(found)) == 30


@pytest.mark.parametrize("after", [1, 4, 10])
def test_exact_resume(two: list[str], after: int) -> None:
    write_tar(Path(two[0]) / "1.tar", [{"__key__": f"k{n}", "txt": b"bad" if n % 7 else b"30"} for n in range(30)])
    options = {"batch": 10, "workers": 2, "max_damaged": 1}
    whole = mixed(two, **options)
    batches = whole.epoch(2)
    for _ in range(after):
        next(batches)
    state = json.loads(json.dumps(whole.state()))
    expected = numbers([*batches, *whole.epoch(3)])
    again = mixed(two, **options)
    assert numbers([*again.epoch(2, resume=state), *again.epoch(3)]) == expected
    assert again.report() == whole.report()
    assert sum(again.report()["sources"].values()) == 200 < again.report()["drawn"]


def test_resume_among_another_number_of_processes_delivers_what_is_left(two: list[str]) -> None:
    whole = mixed(two, batch=10, workers=2)
    batches = whole.epoch(0)
    first = [next(batches) for _ in range(4)]
    ranks = [mixed(two, batch=5, workers=1, rank=rank, world=2) for rank in range(2)]
    rest = [n for rank in ranks for n in numbers(rank.epoch(0, resume=whole.state()))]
    assert len(rest) == 60
    assert len(of_b(numbers(first))) + len(of_b(rest)) == 30


def test_what_is_left_of_an_epoch_is_what_follows_in_the_sequence() -> None:
    """Whatever the layout: 3 x 5 batches of 4, and after 24 samples 9 of 4."""
    parts = (Part(0, 2, (30, 30)), Part(2, 1, (50,)))
    whole = Plan(1, 2, 0, 1, 3, 4, 15, 3, (30, 30, 50), Mix(parts, turns([2, 1]), 60))
    rest = replace(whole, base=24, batches=9, workers=2)
    for source in range(2):
        every, left = (
            [
                (part.shard, place)
                for slot in range(plan.slots)
                for part in next(plan.passes(slot, source))
                for place in range(part.start, part.stop or 0)
            ]
            for plan in (whole, rest)
        )
        assert left == every[len(every) - len(left) :] and len(left) == (24, 12)[source]
    assert [source for slot in range(2) for source in islice(rest.turns(slot), 20 - 4 * slot)] == [
        *islice(whole.turns(0), 24, 60)
    ]


def test_sources_that_are_not_counted_need_weights_and_the_length_of_an_epoch(two: list[str]) -> None:
    pipes = [f"pipe:cat {two[0]}/{i}.tar" for i in range(3)]
    with pytest.raises(UserError, match="not known; give every source a weight"):
        Mixture([MixedSource(shards=pipes), MixedSource(shards=two[1])])
    source = Mixture(
        [MixedSource(shards=pipes, weight=3), MixedSource(shards=two[1], weight=1, fields={"text": "json.say"})]
    )
    with pytest.raises(UserError, match="say epoch_samples"):
        loader(source, batch=8)
    found = numbers(loader(source, batch=8, epoch_samples=160, workers=1).epoch(0))
    assert len(of_b(found)) == 40 == len(set(of_b(found)))
    assert Counter(n for n in found if n < 1000) == dict.fromkeys(range(60), 2)


def test_one_set_mixed_with_itself_under_other_fields(tmp_path: Path) -> None:
    folder = number_set(tmp_path / "set", [0])
    samples = [{"__key__": str(n), "txt": str(n), "alt.txt": str(n + 1000)} for n in range(20)]
    write_tar(
        tmp_path / "set/000.tar", [{k: v if k == "__key__" else v.encode() for k, v in s.items()} for s in samples]
    )
    parts = [MixedSource(shards=folder), MixedSource(shards=folder, fields={"text": "alt.txt"})]
    made = loader(Mixture(parts), batch=8, workers=0)
    found = numbers(made.epoch(0))
    assert sorted(found) == [*range(20), *range(1000, 1020)]
    assert [n for n in found if n < 1000] != [n - 1000 for n in of_b(found)], "each in an order of its own"
    assert made.report()["sources"] == {folder: 20, f"{folder} (2)": 20}


def test_a_full_pass_has_every_sample_of_every_source_under_one_numbering(two: list[str]) -> None:
    made = mixed(two, batch=10)
    batches = list(FullPass(made.source, made.view.preprocess, batch=7).batches(workers=0))
    assert [int(n) for b in batches for n in b.extra["index"]] == list(range(100))
    assert [int(n) for b in batches for n in b.views["text"][0]] == [*range(60), *range(1000, 1040)]


def test_what_is_refused(two: list[str]) -> None:
    with pytest.raises(UserError, match="bees has no weight and others have"):
        mixed(two, (1, None), batch=4)
    with pytest.raises(UserError, match="empty list"):
        Mixture([])
    plain = MixedSource(shards=two[1])
    with pytest.raises(UserError, match="has 'text'"):
        loader(Mixture([MixedSource(shards=two[0]), plain]), batch=4)
    wrong = MixedSource(shards=two[1], fields={"text": "json.sya"})
    with pytest.raises(UserError, match=r"json\.sya.*did you mean 'json\.say'"):
        loader(Mixture([MixedSource(shards=two[0]), wrong]), batch=4)
