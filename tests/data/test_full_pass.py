"""A pass over a set in order: each whole sample once, however many processes share it."""

from __future__ import annotations

from pathlib import Path

import pytest
from numbered import Numbers, numbers, write_tar

from mmssl.data.full_pass import FullPass
from mmssl.data.shards import Source


def parts(folder: Path) -> Source:
    """Three shards of 5, 1 and 9 numbers; 4 is damaged, 7 has no text."""
    first = 0
    for shard, count in enumerate([5, 1, 9]):
        found = []
        for number in range(first, first + count):
            text = {} if number == 7 else {"txt": b"bad" if number == 4 else str(number).encode()}
            found.append({"__key__": f"n{number:02d}", "cls": b"1", **text})
        write_tar(folder / f"{shard}.tar", found)
        first += count
    return Source(shards=str(folder))


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 2), (3, 0)])
def test_each_whole_sample_comes_once(tmp_path: Path, world: int, workers: int) -> None:
    source = parts(tmp_path)
    for _ in range(2):
        shared = []
        for rank in range(world):
            sweep = FullPass(source, {"text": Numbers()}, batch=2, rank=rank, world=world)
            batches = list(sweep.batches(workers=workers))
            assert all(1 <= len(batch.views["text"][0]) <= 2 for batch in batches)
            assert all(bool(batch.extra["text_present"].all()) for batch in batches)
            assert [int(n) for batch in batches for n in batch.extra["index"]] == numbers(batches), "places in the set"
            assert numbers(batches) == [n for n in range(rank, 15, world) if n not in (4, 7)], "in order"
            shared += numbers(batches)
        assert sorted(shared) == [n for n in range(15) if n not in (4, 7)]


def test_alone_it_is_the_whole_set(tmp_path: Path) -> None:
    sweep = FullPass(parts(tmp_path), {"text": Numbers()}, batch=20)
    assert numbers(sweep.batches(workers=0)) == [n for n in range(15) if n not in (4, 7)]
