"""A run that is told to end is saved, says so, exits with 0, and goes on as if nothing had been."""

from __future__ import annotations

import copy
import json
import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmssl import train, trainer
from mmssl.checkpoint import steps
from mmssl.evals.zero_shot import ZeroShot
from mmssl.stopping import Stopping

sys.path.append(str(Path(__file__).parent))
from pair import STEP, Pair, run


@pytest.fixture
def recipe(color_recipe: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(color_recipe)
    made["train"] |= {"device": "cpu", "threads": 1}
    return made


@pytest.fixture
def mine() -> Iterator[list[int]]:
    """What the handlers that a user set before get."""
    got: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    for number in before:
        signal.signal(number, lambda number, frame: got.append(number))
    yield got
    for number, handler in before.items():
        signal.signal(number, handler)


def state(folder: Path) -> dict[str, Any]:
    return torch.load(steps(folder / "checkpoints")[0] / "state.pt", weights_only=True)


def assert_same(one: Path, other: Path) -> None:
    mine, theirs = state(one), state(other)
    assert mine["step"] == theirs["step"] and mine["streams"] == theirs["streams"]
    assert not [key for key, value in mine["model"].items() if not torch.equal(value, theirs["model"][key])]
    ends = [json.loads((folder / "results.json").read_text())["scores"] for folder in (one, other)]
    assert ends[0] == ends[1]


def signalled(self: Any, real: Any = trainer.Trainer.train_step) -> Any:
    if self.step == STEP:
        signal.raise_signal(signal.SIGTERM)
    return real(self)


def test_a_run_is_saved_after_the_step_and_goes_on(
    recipe: dict[str, Any],
    mine: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, folder = train(recipe, out=tmp_path / "whole", progress=False), tmp_path / "run"
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(trainer.Trainer, "train_step", signalled)
    with pytest.raises(SystemExit) as ended:
        train(recipe, out=folder, progress=False)
    assert ended.value.code == 0 and not mine and signal.getsignal(signal.SIGTERM) is before
    assert steps(folder / "checkpoints")[0].name == f"step_{STEP + 1}"
    assert not (folder / "data_report.json").exists() and not (folder / "results.json").exists()
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"SIGTERM: saved after step {STEP + 1} in {folder}; go on with --resume"
    monkeypatch.undo()
    train(recipe, out=folder, resume=True, progress=False)
    assert_same(whole, folder)


@pytest.mark.parametrize("samples", [160, 320])  # in the middle, when one evaluation is due, and at the end
def test_evaluations_that_a_signal_ends_are_made_by_the_resumed_run(
    samples: int,
    recipe: dict[str, Any],
    mine: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe["evals"]["zero_shot"]["every"] = 160
    whole, folder = train(recipe, out=tmp_path / "whole", progress=False), tmp_path / "run"
    judged = []

    def is_told(self: Any, trained: Any, real: Any = ZeroShot.run) -> Any:
        judged.append("zero_shot")
        if len(judged) == samples // 160:
            signal.raise_signal(signal.SIGUSR1)
        return real(self, trained)

    monkeypatch.setattr(ZeroShot, "run", is_told)
    with pytest.raises(SystemExit):
        train(recipe, out=folder, progress=False)
    assert len(judged) == samples // 160, "no other was begun"
    assert steps(folder / "checkpoints")[0].name == f"step_{samples // 16}"
    monkeypatch.undo()
    train(recipe, out=folder, resume=True, progress=False)
    assert_same(whole, folder)
    lines = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if "zero_shot/top1" in line]
        for run in (whole, folder)
    ]
    assert lines[0] == lines[1] and [line["step"] for line in lines[0]] == [10, 20]


def test_a_second_signal_does_what_it_did_before(mine: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stopping() as stop:
        assert not stop.now() and not stop.after_step(last=False)
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)  # both at once are one request
        assert not mine and stop.after_step(last=False) and stop.name == "SIGUSR1"
        stop.since -= 2.0
        signal.raise_signal(signal.SIGTERM)
        assert mine == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is before


def test_what_is_ignored_stays_so_and_other_threads_set_nothing(mine: list[int]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Stopping() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert not stop.now() and stop.before.keys() == {signal.SIGUSR1}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    found: list[bool] = []

    def elsewhere() -> None:
        with Stopping() as stop:
            found.append(stop.now() or bool(stop.before))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [False]


def test_two_processes_stop_after_the_same_step(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    words = ["train", str(tmp_path / "r.yaml"), "--quiet", "--resume", "--out"]
    assert Pair(tmp_path, [*words, str(tmp_path / "whole")]).codes() == [0, 0]
    stopped = Pair(tmp_path, [*words, str(tmp_path / "run")], happens="SIGTERM")
    assert stopped.codes() == [0, 0]
    [newest] = [path.name for path in steps(tmp_path / "run" / "checkpoints")[:1]]
    assert newest == f"step_{STEP + 2}", "the processes agree after the step that follows"
    told = f"SIGTERM: saved after step {STEP + 2} in {tmp_path / 'run'}; go on with --resume"
    assert [told in stopped.said(rank) for rank in (0, 1)] == [True, False]
    assert not (tmp_path / "run" / "data_report.json").exists()
    assert Pair(tmp_path, [*words, str(tmp_path / "run")]).codes() == [0, 0]
    assert_same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_data_workers_do_not_end_of_the_signal_to_a_job(method: str, recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["tasks"]["clip"]["data"]["workers"] = 2
    recipe["evals"] = {}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    words = ["train", str(tmp_path / "r.yaml"), "--quiet", "--out", str(tmp_path / "run")]
    process = multiprocessing.get_context("forkserver").Process(
        target=ignoring, args=(method, tmp_path / "said", words)
    )
    process.start()
    process.join(300)
    process.kill()
    assert process.exitcode == 0, (tmp_path / "said").read_text()
    assert json.loads((tmp_path / "run" / "data_report.json").read_text())["clip"]["damaged"] == {}


def ignoring(method: str, file: Path, words: list[str]) -> None:
    """Trains to the end, whatever its group is told in between."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    multiprocessing.set_start_method(method, force=True)
    run({}, file, words, "job")
