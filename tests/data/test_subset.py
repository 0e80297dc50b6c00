"""Some samples of a set, by their numbers."""

from __future__ import annotations

import functools
import itertools
import json
import operator
import tracemalloc
from pathlib import Path

import pytest
import torch
from numbered import number_set, write_tar

from mmssl.data import subset
from mmssl.data.shards import Source
from mmssl.data.subset import Subset, counted, limited
from mmssl.errors import UserError

COUNTS = [5, 1, 6, 4]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(shards=number_set(tmp_path / "a", COUNTS))


def held(some: Source, **options: int) -> list[tuple[str, int]]:
    return [(sample["text"], sample["__number__"]) for sample in some.samples({"text"}, **options)]


@pytest.mark.parametrize("kept", [0, 40, 2**28])
@pytest.mark.parametrize(
    "numbers", [range(16), [15], [0], [4, 5, 6], [0, 4, 6, 11, 12, 15], [2, 3, 14], [6, 7, 8, 9, 10, 11]]
)
def test_a_subset_holds_just_its_samples_with_the_numbers_that_they_had(
    source: Source, monkeypatch: pytest.MonkeyPatch, numbers: list[int], kept: int
) -> None:
    monkeypatch.setattr(subset, "KEPT", kept)
    some = Subset(source, reversed(list(numbers)))
    for _ in range(2):  # the second time out of memory, where there is room
        assert held(some) == [(str(n), n) for n in numbers]
    ends = [0, 5, 6, 12, 16]
    per_shard = [sum(a <= n < b for n in numbers) for a, b in itertools.pairwise(ends)]
    assert some.counts == [count for count in per_shard if count]
    assert [Path(shard).name for shard in some.shards] == [f"{i:03d}.tar" for i, n in enumerate(per_shard) if n]
    assert some.count == len(numbers)


@pytest.mark.parametrize("kept", [0, 2**28])
def test_a_part_of_a_shard_is_read(source: Source, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr(subset, "KEPT", kept)
    some = Subset(source, [6, 8, 9, 10, 11])
    assert [entry.number for entry in some.entries(0, start=1, stop=4, step=2)] == [8, 10]
    assert [entry.number for entry in some.entries(0, start=3)] == [10, 11]


def test_what_is_kept_is_bounded(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    some = Subset(source, range(16))  # 5 bytes, 1, 8 and 8
    some.room = 13
    assert len(held(some)) == 16
    assert (sorted(some.kept), some.room) == ([0, 1], 7)
    other = Subset(source, range(16))
    other.room = 14
    held(other)
    assert (sorted(other.kept), other.room) == ([0, 1, 2], 0)


def test_what_has_no_room_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "x.tar", ({"__key__": str(n), "bin": bytes(2**20)} for n in range(24)))
    monkeypatch.setattr(subset, "KEPT", 2**22)
    some = Subset(Source(shards=str(tmp_path)), range(24))
    tracemalloc.start()
    try:
        assert sum(entry.size for entry in some.entries(0)) == 24 * 2**20
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_a_subset_of_a_subset_holds_what_both_hold(source: Source) -> None:
    assert held(Subset(Subset(source, [1, 5, 7, 15]), [0, 5, 15])) == [("5", 5), ("15", 15)]


@pytest.mark.parametrize("world", [1, 3])
def test_ranks_share_a_subset(source: Source, world: int) -> None:
    some = Subset(source, [1, 5, 7, 8, 15])
    shared = [held(some, rank=rank, world=world) for rank in range(world)]
    assert sorted(functools.reduce(operator.iadd, shared, [])) == sorted((str(n), n) for n in [1, 5, 7, 8, 15])


def test_a_limit_draws_evenly_by_its_seed(source: Source) -> None:
    assert limited(source, None) is source
    assert limited(source, 16) is source
    drawn = [tuple(n for _, n in held(limited(source, 6, seed=seed))) for seed in range(40)]
    assert all(len(set(one)) == 6 for one in drawn)
    assert len(set(drawn)) > 30
    times = torch.bincount(torch.tensor(drawn).flatten(), minlength=16)
    assert times.sum() == 240 and int(times.min()) >= 5 and int(times.max()) <= 26  # 15 on average, sd 3
    assert drawn[3] == tuple(n for _, n in held(limited(source, 6, seed=3)))
    assert len(held(limited(source, 1))) == 1


def test_what_cannot_be_drawn_is_said(tmp_path: Path, source: Source) -> None:
    with pytest.raises(UserError, match="limit is 0; expected at least 1"):
        limited(source, 0)
    unknown = Source(shards=[f"pipe:cat {tmp_path}/a/000.tar"])
    with pytest.raises(UserError, match=r"how many samples pipe:cat .*000.tar, ... hold is not known"):
        counted(unknown)
    assert counted(source) == COUNTS


def test_an_index_is_believed(tmp_path: Path, source: Source) -> None:
    entries = [{"name": f"{i:03d}.tar", "samples": count} for i, count in enumerate(COUNTS)]
    (tmp_path / "a/index.json").write_text(json.dumps({"format": "mmssl-shards-1", "shards": entries}))
    assert held(Subset(Source(shards=str(tmp_path / "a")), [5, 6])) == [("5", 5), ("6", 6)]
