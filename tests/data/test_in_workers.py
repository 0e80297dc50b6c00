"""What workers make comes in order, however many there are; one that hangs or dies at a sample costs that sample."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import WAYS
from numbered import number_set

from mmssl.data.in_workers import Made, batches_in_workers, in_workers
from mmssl.data.shards import Source
from mmssl.data.subset import Subset, limited
from mmssl.errors import DamagedError, UserError
from mmssl.limits import VARIABLE
from mmssl.types import Sample


@pytest.fixture(autouse=True)
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Forces a start method, fork where none is, limits a sample to some seconds, and holds that no worker is left."""
    monkeypatch.setenv(VARIABLE, "sample_seconds=2")
    before, alive = multiprocessing.get_start_method(allow_none=True), multiprocessing.active_children()
    multiprocessing.set_start_method("fork", force=True)
    yield lambda method: multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_start_method(before, force=True)
    assert multiprocessing.active_children() == alive


def made(sample: Sample, *, ends: dict[int, str], spared: bool = False) -> torch.Tensor:
    number = int(sample["text"])
    if number in ends:
        end, reason = WAYS[ends[number]]
        if spared or not multiprocessing.parent_process():
            raise DamagedError(reason)
        end()
    return torch.tensor([number, sample["__place__"]])


def plain(several: Any) -> list[Any]:
    return [(one.place, one.about, one.value if one.error is None else str(one.error)) for one in several]


def known(found: list[Made[torch.Tensor]]) -> list[int]:
    return [int(one.value[0]) for one in found if one.value is not None]


@pytest.mark.parametrize(("method", "ways"), [("fork", ["hang", "crash", "exit", "kill"]), ("forkserver", ["crash"])])
def test_it_comes_with_the_reason_and_all_else_as_if_it_were_damaged(
    tmp_path: Path, start: Callable[[str], None], method: str, ways: list[str]
) -> None:
    start(method)
    source = Source(shards=number_set(tmp_path / "a", [9, 12]))
    ends = dict(zip((2, 3, 11, 20), ways, strict=False))
    spared = list(in_workers(source, ["text"], partial(made, ends=ends, spared=True), workers=0))
    found = list(in_workers(source, ["text"], partial(made, ends=ends), size=4))
    assert known(found) == known(spared) == [n for n in range(21) if n not in ends]
    assert [one.place for one in found] == list(range(21)) and [str(one.error) for one in found if one.error] == [
        WAYS[way][1] for way in ends.values()
    ]
    assert [one.about for one in found] == [one.about for one in spared]
    assert found[10].about["__number__"] == 10 and found[10].about["__shard__"] == source.shards[1]


def refuse(several: list[torch.Tensor]) -> list[int]:
    numbers = [int(one[0]) for one in several]
    if 6 in numbers:
        os._exit(3)
    return numbers


def test_one_that_kills_where_it_is_collated_is_left_out(tmp_path: Path) -> None:
    source = Source(shards=number_set(tmp_path / "a", [11]))
    found = list(batches_in_workers(source, ["text"], partial(made, ends={}), refuse, size=3))
    assert [numbers for _, numbers in found] == [[0, 1, 2], [3, 4, 5], [7, 8], [9, 10]]
    assert [one.place for several, _ in found for one in several if one.error] == [6]


@pytest.mark.parametrize(("grouped", "shares"), [(False, [[0, 2, 4, 6], [1, 3, 5]]), (True, [[0, 1, 4, 5], [2, 3, 6]])])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_ranks_share_samples_or_groups(tmp_path: Path, workers: int, grouped: bool, shares: list[list[int]]) -> None:
    source = Source(shards=number_set(tmp_path / "a", [3, 4]))
    options = {"size": 2, "workers": workers, "world": 2, "grouped": grouped}
    for rank, share in enumerate(shares):
        found = list(in_workers(source, ["text"], partial(made, ends={}), rank=rank, **options))  # type: ignore[arg-type]
        assert known(found) == [one.place for one in found] == share


def test_a_group_of_damaged_ones_has_no_batch(tmp_path: Path) -> None:
    source = Source(shards=number_set(tmp_path / "a", [4]))
    make = partial(made, ends={0: "exit", 1: "exit"}, spared=True)
    assert [batch for _, batch in batches_in_workers(source, ["text"], make, len, size=2)] == [None, 2]


def broken(sample: Sample) -> int:
    if sample["text"] == "2":
        raise UserError("expected a picture")
    if sample["text"] == "3":
        raise RuntimeError("not of the sample")
    return 0


def test_a_sample_that_is_refused_is_damaged_and_other_errors_end_it(tmp_path: Path) -> None:
    source = Source(shards=number_set(tmp_path / "a", [4]))
    for workers in (0, 2):
        found = in_workers(source, ["text"], broken, workers=workers)
        assert [str(one.error) for one in islice(found, 3)] == ["None", "None", "expected a picture"]
        with pytest.raises(RuntimeError, match="not of the sample"):
            next(found)
        with pytest.raises(UserError, match="no sample of .* has 'image'"):
            list(in_workers(source, ["image"], broken, workers=workers))


def where(sample: Sample) -> int:
    return os.getpid()


def count(shards: str) -> int:
    return len({one.value for one in in_workers(Source(shards=shards), ["text"], where)} - {os.getpid()})


def test_there_are_two_and_none_in_a_process_that_may_start_none(tmp_path: Path) -> None:
    shards = number_set(tmp_path / "a", [8])
    assert count(shards) == 2
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(count, (shards,)) == 0


def test_a_subset_is_read_once_for_all_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = limited(Source(shards=number_set(tmp_path / "a", [6, 6])), 5)
    assert isinstance(some, Subset)
    numbers = sorted(some.numbers)
    for _ in range(2):
        found = list(in_workers(some, ["text"], partial(made, ends={})))
        assert known(found) == numbers and len(some.kept) == len(some.shards)
        monkeypatch.setattr(Subset, "_read", lambda *_: iter(()))  # the second time nothing is read
    some.kept.clear()
    some.room = 0
    some.hold()
    assert not some.kept
