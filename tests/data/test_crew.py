"""A sample that hangs or kills its data worker costs that sample: the stream is what it is where it is damaged."""

from __future__ import annotations

import gc
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import WAYS, Killing, KillingNumbers
from numbered import Numbers, Shown, drawn, loader, number_set, numbers

from mmssl.data.crew import Crew
from mmssl.data.full_pass import FullPass
from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.data.watch import DEATHS, Watch
from mmssl.errors import UserError
from mmssl.limits import VARIABLE


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    """Holds that every test ends the processes that it started."""
    before = multiprocessing.active_children()
    yield
    assert multiprocessing.active_children() == before


@pytest.fixture(autouse=True)
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Forces a start method, fork where none is, and limits a sample to some seconds."""
    monkeypatch.setenv(VARIABLE, "sample_seconds=2")
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("fork", force=True)
    yield lambda method: multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_start_method(before, force=True)


def killing(shards: str, ends: dict[int, str], *, spared: bool = False, **options: Any) -> Loader:
    view = Killing({"text": Numbers()}, ends, spared=spared)
    options = {"batch": 4, "workers": 2, "max_damaged": 0.5, **options}
    return Loader(Source(shards=shards), view, **options)


@pytest.mark.parametrize(("method", "ways"), [("fork", ["hang", "crash", "exit", "kill"]), ("forkserver", ["crash"])])
def test_it_is_left_out_and_all_else_is_as_if_it_were_damaged(
    tmp_path: Path, start: Callable[[str], None], method: str, ways: list[str]
) -> None:
    shards = number_set(tmp_path / "a", [20, 24])
    ends = dict(zip((5, 13, 30, 38), ways, strict=False))
    spared = killing(shards, ends, spared=True)
    expected = list(spared.epoch(0))
    start(method)
    own = killing(shards, ends)
    found = list(own.epoch(0))
    assert (numbers(found), drawn(found)) == (numbers(expected), drawn(expected))
    assert set(numbers(found)) == set(range(44)) - set(ends)
    assert own.report() == spared.report()
    told = {(WAYS[way][1], f"{shards}/00{number // 20}.tar") for number, way in ends.items()}
    assert {(reason, shard) for reason, by in own.report()["damaged"].items() for shard in by} == told
    assert {**own.state(), "lost": []} == spared.state()


def test_a_resumed_run_goes_on_without_it(tmp_path: Path) -> None:
    shards = number_set(tmp_path / "a", [40])
    order = list(killing(shards, {}).epoch(0))
    lost = [numbers(order[:1])[3], numbers(order[2:3])[1]]  # at draws 3 and 5 of worker 0
    ends = dict.fromkeys(lost, "crash")
    spared = killing(shards, ends, spared=True)
    first = spared.state()
    assert first["lost"] == []
    expected = list(spared.epoch(0))
    reason = WAYS["crash"][1]
    noted = [[0, 0, 0, 3, reason], [0, 0, 0, 5, reason]]  # the second is the next one after the first batch
    resumed = killing(shards, ends)
    batches = resumed.epoch(0, resume=json.loads(json.dumps({**first, "lost": noted})))
    found = [next(batches)]
    assert resumed.state()["lost"] == noted[1:], "until it is behind"
    state = json.loads(json.dumps(resumed.state()))
    found += batches
    assert drawn(found) == drawn(expected) and resumed.report() == spared.report()
    assert all(epoch == 1 for epoch, *_ in resumed.state()["lost"]), "that the workers have come to meanwhile"
    again = killing(shards, ends)
    assert drawn(again.epoch(0, resume=state)) == drawn(expected[1:])
    assert again.report() == spared.report()
    old = {key: value for key, value in first.items() if key != "lost"}
    assert drawn(killing(shards, {}).epoch(0, resume=old)) == drawn(order), "states of before had none"
    other = killing(shards, {}, workers=1)
    next(other.epoch(0, resume=state))
    assert other.state()["lost"] == [], "of another layout these are no places"


def test_the_death_of_a_worker_does_not_interrupt_what_runs_meanwhile(tmp_path: Path) -> None:
    shards = number_set(tmp_path / "a", [24])
    last = numbers(list(killing(shards, {}).epoch(0))[4:5])[0]
    expected = drawn(killing(shards, {last: "kill"}, spared=True).epoch(0))
    own = killing(shards, {last: "kill"})
    before = len(multiprocessing.active_children())
    batches = own.epoch(0)
    found = list(itertools.islice(batches, 2))
    deadline = time.monotonic() + 100
    while len(multiprocessing.active_children()) != before + 1 and time.monotonic() < deadline:
        pass  # a training step
    assert len(multiprocessing.active_children()) == before + 1, "of two"
    found += batches
    assert drawn(found) == expected


class Once(Shown):
    """Kills its process at a number the first time that it is shown."""

    def __init__(self, marker: Path, number: int) -> None:
        super().__init__({"text": Numbers()})
        self.marker, self.number = marker, number

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        if int(sample["text"]) == self.number and not self.marker.exists():
            self.marker.touch()
            os._exit(1)
        return super().__call__(sample)


def test_a_worker_that_is_killed_once_costs_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shards = number_set(tmp_path / "a", [24])
    expected = drawn(loader(shards, batch=4, workers=2).epoch(0))
    own = Loader(Source(shards=shards), Once(tmp_path / "marker", 7), batch=4, workers=2)
    assert drawn(own.epoch(0)) == expected and (tmp_path / "marker").exists()
    assert own.report() == {"drawn": 24, "damaged": {}, "notes": {}}
    assert "a data worker died (exit code 1); another makes the batch that it was at" in capfd.readouterr().err


def test_one_that_kills_where_samples_are_collated_is_found(tmp_path: Path) -> None:
    shards = number_set(tmp_path / "a", [24])
    late = [9, 20]
    spared = killing(shards, dict.fromkeys(late, "exit"), spared=True)
    own = Loader(Source(shards=shards), Shown({"text": KillingNumbers(late)}), batch=4, workers=2, max_damaged=0.5)
    assert drawn(own.epoch(0)) == drawn(spared.epoch(0))
    assert own.report() == spared.report()


def test_strict_stops_at_it(tmp_path: Path) -> None:
    own = killing(number_set(tmp_path / "a", [8]), {3: "exit"}, strict=True)
    with pytest.raises(UserError, match=r"^n0003 of .*000.tar is unusable: a sample that ended its .*exit code 3\)$"):
        list(own.epoch(0))


def test_where_every_sample_kills_the_run_ends_soon(tmp_path: Path) -> None:
    own = killing(number_set(tmp_path / "a", [40]), dict.fromkeys(range(40), "exit"))
    with pytest.raises(
        UserError, match=r"data workers keep dying \(exit code 3\), the last at n00.* use fewer"
    ) as told:
        list(own.epoch(0))
    assert "\n" not in str(told.value) and len(own._lost.reasons) <= DEATHS


class Gone(Source):
    """Shards whose reading ends the process."""

    def entries(self, *args: Any, **options: Any) -> Any:
        if multiprocessing.parent_process():
            os._exit(4)
        return super().entries(*args, **options)


def test_where_no_sample_is_to_blame_the_run_ends(tmp_path: Path) -> None:
    own = loader(Gone(shards=number_set(tmp_path / "a", [8])), batch=4, workers=2)
    with pytest.raises(UserError, match=r"data workers keep dying \(exit code 4\), the last at no sample: .*"):
        list(own.epoch(0))


@pytest.mark.parametrize("way", ["hanging", "late"])
def test_a_pass_over_a_set_goes_on_after_it(tmp_path: Path, way: str) -> None:
    source = Source(shards=number_set(tmp_path / "a", [9, 10]))
    sweep = FullPass(source, {"text": KillingNumbers(**{way: [6]})}, batch=2)
    assert sorted(numbers(sweep.batches(workers=2))) == [n for n in range(19) if n != 6]


def count(first: int, step: int, watch: Watch) -> Iterator[int]:
    yield from range(first, 10, step)


def test_parts_take_turns_until_all_have_ended() -> None:
    crew = Crew([partial(count, 0, 5), partial(count, 1, 3), partial(count, 20, 1)])
    assert list(crew) == [0, 1, 5, 4, 7]
    crew.close()


class OddError(Exception):
    """An error that cannot be sent."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def fail(error: type[Exception], arguments: tuple[Any, ...], watch: Watch) -> Iterator[int]:
    yield 1
    raise error(*arguments)


@pytest.mark.parametrize(
    ("error", "arguments", "kind", "said"),
    [
        (KeyError, ("a mistake",), KeyError, "a mistake"),
        (OddError, (3, 4), RuntimeError, "3 and 4"),
        (EOFError, ("an end",), EOFError, "an end"),
    ],
)
def test_mistakes_in_a_worker_are_raised_with_their_traceback(
    error: type[Exception], arguments: tuple[Any, ...], kind: type[Exception], said: str
) -> None:
    crew = Crew([partial(fail, error, arguments)])
    assert next(crew) == 1
    with pytest.raises(kind, match=said) as told:
        next(crew)
    assert "in fail" in str(told.value) + str(told.value.__cause__)
    crew.close()


def lambdas(watch: Watch) -> Iterator[Any]:
    yield lambda: None


def test_what_cannot_be_sent_back_is_told() -> None:
    crew = Crew([lambdas])
    with pytest.raises((AttributeError, TypeError, RuntimeError, ValueError), match="lambda"):
        next(crew)
    crew.close()


def test_signals_to_all_do_not_end_workers() -> None:
    crew = Crew([partial(count, 0, 1)])
    assert next(crew) == 0
    for process in multiprocessing.active_children():
        process.terminate()
    assert list(crew) == list(range(1, 10))
    crew.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_are_in_pinned_memory_one_ahead(tmp_path: Path) -> None:
    shards = number_set(tmp_path / "a", [24])
    own = killing(shards, {7: "kill"})
    spared = killing(shards, {7: "kill"}, spared=True)
    found = list(own.epoch(0))
    assert all(batch.views["text"][0].is_pinned() for batch in found)
    assert drawn(found) == drawn(spared.epoch(0))


def test_workers_end_with_their_crew_where_batches_are_pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mmssl.data.crew._device", lambda: 0)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)
    monkeypatch.setattr("mmssl.types.Batch.pin_memory", lambda batch: batch)
    shards = number_set(tmp_path / "a", [24])
    before = multiprocessing.active_children()
    gc.disable()  # which would end what only keeps itself
    try:
        own, spared = (list(killing(shards, {7: "kill"}, spared=spared).epoch(0)) for spared in (False, True))
        assert drawn(own) == drawn(spared) and multiprocessing.active_children() == before
    finally:
        gc.enable()
