"""Runs that are cut short while they write: a full disk, a kill between any two files, another run in the folder."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from linear.plain import made

from mmssl import checkpoint, cli, judge, lock, train, trainer
from mmssl.errors import UserError
from mmssl.files import write_atomically
from mmssl.judge import evaluate, load_run
from mmssl.lock import hold

PEEK = {"name": "linear.model:evaluation"}


@pytest.fixture(scope="module")
def tree(rows: Path) -> dict[str, Any]:
    """A run of 6 steps, each saved, with two encoders' worth of files and an evaluation at its end."""
    return made(rows, evals={"peek": PEEK}, encoder={"dropout": 0.5}, train={"save_every": 8, "ema": 0.5})


@pytest.fixture(scope="module")
def whole(tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run, unbroken."""
    return train(tree, out=tmp_path_factory.mktemp("whole") / "run", progress=False)


def content(folder: Path, *, only: str = "") -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != lock.NAME)
    return {name: path.read_bytes() for path in files if (name := str(path.relative_to(folder))).startswith(only)}


def steps(folder: Path) -> list[int]:
    return [int(path.name[5:]) for path in checkpoint.steps(folder / "checkpoints")]


def same(folder: Path, whole: Path) -> None:
    """Compares the ends of two runs: all weights, also those for use, bit by bit; and that no litter is left."""
    assert content(folder, only="encoders") == content(whole, only="encoders")
    assert content(folder, only="objectives") == content(whole, only="objectives")
    states = [torch.load(run / "checkpoints/step_6/state.pt", weights_only=True) for run in (folder, whole)]
    assert repr(states[0]) == repr(states[1])
    assert not [path.name for path in folder.rglob(".*")]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Lets no file of this process grow beyond a size, as a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def from_step(step: int, context: Any, patch: pytest.MonkeyPatch) -> None:
    """Lets every step from one on, and its save, happen in a context."""
    real = trainer.Trainer.save

    def save(self: trainer.Trainer) -> None:
        if self.step < step:
            return real(self)
        with context():
            return real(self)

    patch.setattr(trainer.Trainer, "save", save)


def fails(tree: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs the command, which must end with one line and code 2; returns the line."""
    file = folder.with_suffix(".yaml")
    if not file.exists():
        file.write_text(yaml.safe_dump(tree))
    assert cli.main(["train", str(file), "--out", str(folder), "--quiet", "--resume"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("mmssl: ") and len(said.splitlines()) == 1 and "Traceback" not in said
    return said


@pytest.mark.parametrize("part", [0.01, 0.05, 0.3, 0.7, 0.97])
def test_a_disk_that_is_full_at_any_byte_costs_nothing(
    part: float,
    tree: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = int(part * (whole / "checkpoints/step_6/state.pt").stat().st_size)
    before: list[dict[str, bytes]] = []

    def limited() -> Any:
        before.append(content(tmp_path / "run"))
        return largest_file(size)

    from_step(4, limited, monkeypatch)
    said = fails(tree, tmp_path / "run", capsys)
    assert f"step 4 cannot be saved: File too large at {tmp_path}/run/" in said and "go on with --resume" in said
    assert content(tmp_path / "run") == {**before[0], **content(tmp_path / "run", only="tensorboard")}
    assert steps(tmp_path / "run") == [3, 2]
    monkeypatch.undo()
    same(train(tree, out=tmp_path / "run", resume=True, progress=False), whole)


@pytest.mark.parametrize("call", range(1, 9))
def test_a_disk_that_is_full_at_any_file_costs_nothing(
    call: int,
    tree: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some file systems tell it only when a file is synced."""
    real, calls = os.fsync, []

    @contextmanager
    def full() -> Iterator[None]:
        def refused(handle: int) -> None:
            calls.append(handle)
            if len(calls) == call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(handle)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", refused)
            yield

    from_step(3, full, monkeypatch)
    if call <= 4:  # two files of the encoder, the objective's, the state
        assert "step 3 cannot be saved: No space left on device" in fails(tree, tmp_path / "run", capsys)
        assert steps(tmp_path / "run") == [2, 1]
    else:  # syncing a folder is what not every system can
        train(tree, out=tmp_path / "run", progress=False)
    monkeypatch.undo()
    same(train(tree, out=tmp_path / "run", resume=True, progress=False), whole)


def test_a_disk_that_is_full_from_the_beginning(
    tree: dict[str, Any], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    for size in (0, 100, 400):
        with largest_file(size):
            assert "File too large at" in fails(tree, tmp_path / "run", capsys)
    same(train(tree, out=tmp_path / "run", resume=True, progress=False), whole)


@pytest.mark.parametrize("name", ["results.json", "data_report.json"])
def test_a_disk_that_is_full_at_the_end(
    name: str, tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def refused(self: Path, to: Path) -> Path:
        if to.name == name:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(self), None, str(to))
        return real(self, to)

    monkeypatch.setattr(Path, "replace", refused)
    assert f"Disk quota exceeded at {tmp_path}/run/{name}" in fails(tree, tmp_path / "run", capsys)
    assert steps(tmp_path / "run") == [6, 5]


def test_a_file_in_a_checkpoints_place(
    tree: dict[str, Any], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run/checkpoints/step_4"
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    assert f"step 4 cannot be saved: Not a directory at {file}" in fails(tree, tmp_path / "run", capsys)
    assert steps(tmp_path / "run") == [3, 2] and file.read_text() == "mine"
    file.unlink()
    same(train(tree, out=tmp_path / "run", resume=True, progress=False), whole)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_to(
    number: int,
    tree: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tests may run as root, whom no mode keeps from writing."""
    real = os.open

    def refused(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & (os.O_CREAT | os.O_RDWR | os.O_WRONLY) and str(path).startswith(str(tmp_path / "run")):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, flags, *rest, **options)

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(os, "open", refused)
    said = fails(tree, tmp_path / "run", capsys)
    assert said == f"mmssl: {os.strerror(number)} at {tmp_path}/run/.lock; nothing already written is lost"


def killed_at(turn: int, tree: dict[str, Any], folder: Path) -> bool:
    """Runs in a process that is gone, without a word, before a file takes a place for the so-manieth time."""
    child = os.fork()
    if child == 0:
        count, real = iter(range(1, 1000)), Path.replace

        def counted(self: Path, to: Path) -> Path:
            if next(count) == turn:
                os._exit(9)
            return real(self, to)

        Path.replace = counted  # type: ignore[method-assign, assignment]
        train(tree, out=folder, progress=False)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def undated(folder: Path) -> dict[str, Any]:
    """Returns results.json without what the clock said."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    for ran in results["evaluations"].values():
        del ran["date"]
    return results


def test_a_run_that_is_killed_between_any_two_files_is_taken_up(
    tree: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    short = {**tree, "train": {**tree["train"], "samples": 16}}
    expected = train(short, out=tmp_path / "short", progress=False)
    turn, died = 0, True
    while died:
        turn += 1
        folder = tmp_path / str(turn)
        died = killed_at(turn, short, folder)
        for step in steps(folder):
            torch.load(folder / f"checkpoints/step_{step}/state.pt", weights_only=True)
        train(short, out=folder, resume=True, progress=False)
        for part in ("encoders", "objectives"):
            assert content(folder, only=part) == content(expected, only=part), turn
        assert not [path.name for path in folder.rglob(".*")], turn
        assert undated(folder) == undated(expected), turn
        load_run(folder, trust_code=True)
    assert turn == 13, "the recipe, the log, for each of two saves four, the results, the report; and none"


def test_one_run_at_a_time(tree: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with hold(folder):
        for resume in (False, True):
            with pytest.raises(UserError, match="run is in use by process"):
                train(tree, out=folder, resume=resume, progress=False)
        assert [path.name for path in folder.iterdir()] == [lock.NAME]
    with hold(whole):
        before = content(whole)
        with pytest.raises(UserError, match="is in use by process"):
            evaluate(whole, trust_code=True)
        load_run(whole, trust_code=True)
        assert content(whole) == before, "reading is free"
    assert evaluate(whole, trust_code=True).keys() == {"peek/weight"}


def test_a_run_is_read_as_one_save_left_it(
    tree: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save comes once the encoder is read, before the objective's weights are."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    real, asked = judge.checkpoint.load_weights, []

    def late(module: Any, path: Path, **options: Any) -> None:
        asked.append(path.name)
        if path.parent.name == "objectives" and asked.count(path.name) == 1:
            for file in folder.rglob("*.safetensors"):
                write_atomically(file, file.read_bytes())
        real(module, path, **options)

    monkeypatch.setattr(judge.checkpoint, "load_weights", late)
    load_run(folder, trust_code=True)
    assert asked == ["model.safetensors", "fit.safetensors"] * 2


def test_a_run_holds_its_folder_while_it_trains(
    tree: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = trainer.Trainer.train_step, []

    def step(self: trainer.Trainer) -> Any:
        with pytest.raises(UserError, match="is in use by process"):
            train(tree, out=tmp_path / "run", resume=True, progress=False)
        refused.append(self.step)
        return real(self)

    monkeypatch.setattr(trainer.Trainer, "train_step", step)
    same(train(tree, out=tmp_path / "run", progress=False), whole)
    assert refused == list(range(6))


def test_a_run_goes_on_by_another_recipe_and_keeps_the_first(
    tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(tree, out=tmp_path / "run", progress=False)
    first = (folder / "recipe.yaml").read_text()
    train({**tree, "train": {**tree["train"], "samples": 64}}, out=folder, resume=True, progress=False)
    assert (folder / "recipe_until_step_6.yaml").read_text() == first
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["train"]["samples"] == 64
    assert "kept as recipe_until_step_6.yaml" in capsys.readouterr().out
    another = made(Path("none"), tasks={"other": {}})
    with pytest.raises(UserError):
        train(another, out=folder, resume=True, progress=False)
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["train"]["samples"] == 64
