"""Where figures go: one line of JSON each, TensorBoard, and Weights & Biases when asked."""

from __future__ import annotations

import builtins
import errno
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmssl.errors import UserError
from mmssl.log import Appended, RunLog, WandbOptions


def scalars(folder: Path) -> list[tuple[str, float, int]]:
    """Returns what TensorBoard shows of a run: name, value, step."""
    shown = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(tag, event.value, event.step) for tag in shown.Tags()["scalars"] for event in shown.Scalars(tag)]


def test_each_step_is_a_line_and_a_scalar(tmp_path: Path) -> None:
    with RunLog(tmp_path, name="x", recipe={}) as log:
        log.write(1, {"loss": 1.23456789, "lr": 0.1})
        written = (tmp_path / "metrics.jsonl").read_text()
        assert written.endswith("}\n"), "each line is there at once"
        log.write(2, {"loss": float("inf")})
        log.write(3, {"lr": 1.23456789e-7, "samples": 123456789.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    small = '{"step": 3, "lr": 1.23457e-07, "samples": 123456789.0}'
    assert lines == ['{"step": 1, "loss": 1.234568, "lr": 0.1}', '{"step": 2, "loss": null}', small]
    shown = [(tag, pytest.approx(value), step) for tag, value, step in scalars(tmp_path)]
    assert shown[:3] == [("loss", 1.23456789, 1), ("loss", float("inf"), 2), ("lr", 0.1, 1)]


def test_after_a_resume_lines_of_later_steps_are_dropped(tmp_path: Path) -> None:
    before = [json.dumps({"step": step, "loss": step}) for step in (2, 4, 4, 6)]
    with RunLog(tmp_path, name="x", recipe={}) as log:
        for step in (2, 4, 6):
            log.write(step, {"old": float(step)})
    (tmp_path / "metrics.jsonl").write_text("\n".join([*before, '{"step": 8, "lo']))
    with RunLog(tmp_path, name="x", recipe={}, step=4) as log:
        log.write(5, {"loss": 0.5})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 4, 5] and lines[1] == {"step": 4, "loss": 4}
    assert scalars(tmp_path) == [("old", 2.0, 2), ("old", 4.0, 4), ("loss", 0.5, 5)]
    RunLog(tmp_path, name="x", recipe={}).close()
    assert (tmp_path / "metrics.jsonl").read_text() == "", "a run from the beginning keeps none"


def test_cut_lines_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('"step": 1}\n{"step": 2}\n{"step": 3\n')
    RunLog(tmp_path, name="x", recipe={}, step=9).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 2}\n'


class FakeWandb:
    """Stands for the package: writes down what it is told; the run that it opens has the id asked for, or a new one."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def init(self, **options: Any) -> Any:
        self.said.append(options)
        return SimpleNamespace(
            id=options["id"] or f"new{len(self.said)}",
            log=lambda values, step: self.said.append((values, step)),
            finish=lambda: self.said.append("finish"),
        )


def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    RunLog(tmp_path, name="x", recipe={}).close()
    assert not fake.said, "only when asked"
    with RunLog(tmp_path, name="x", recipe={"a": 1}, wandb=True) as log:
        log.write(3, {"loss": 0.5}, {"loss/low": 0.25})
    options = {"project": "mmssl", "name": "x", "group": None, "tags": None, "dir": str(tmp_path), "config": {"a": 1}}
    options |= {"id": None, "resume": "allow"}
    assert fake.said == [options, ({"loss": 0.5, "loss/low": 0.25}, 3), "finish"]
    assert scalars(tmp_path) == [("loss", 0.5, 3), ("loss/low", 0.25, 3)]
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 3, "loss": 0.5}
    mine = WandbOptions(project="p", name="n", group="g", tags=["a", "b"])
    for step, known in ((4, "new1"), (0, None)):
        fake.said.clear()
        RunLog(tmp_path, name="x", recipe={"a": 1}, step=step, wandb=mine).close()
        expected = {**options, "project": "p", "name": "n", "group": "g", "tags": ["a", "b"], "id": known}
        assert fake.said == [expected, "finish"], "a run that is taken up again stays the one it was"


def test_weights_and_biases_must_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **options: Any) -> Any:
        if name == "wandb":
            raise ModuleNotFoundError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'mmssl\[wandb\]'"):
        RunLog(tmp_path, name="x", recipe={}, wandb=True)


def test_lines_that_are_none_are_left_out(tmp_path: Path) -> None:
    lines = [
        '{"step": 1}',
        '{"loss": 2}',
        '{"step": "2"}',
        "[" * 100_000 + "}",
        "[3]",
        '{"step": 4, "a": null}',
        "{}",
    ]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"\xff": 1}\n{"step": 5}\n')
    RunLog(tmp_path, name="x", recipe={}, step=9).close()
    left = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in left] == [1, 4, 5]


class Full:
    """A file on a disk that takes so many bytes more."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.file.write(data[: self.room])
        self.room -= written
        return written

    def close(self) -> None:
        self.file.close()


@pytest.mark.parametrize("room", [0, 1, 20, 45])
def test_what_a_full_disk_does_not_take_is_written_once_there_is_room(
    room: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog(tmp_path, name="x", recipe={}) as log:
        for full in (log.file, log.board.file):
            full.file = Full(full.file, room)  # type: ignore[assignment]
        for step in (1, 2, 3):
            log.write(step, {"loss": 0.5 * step})
        said = capsys.readouterr().out.splitlines()
        assert len(said) == 2 and all("cannot be written: No space left on device" in line for line in said)
        for full in (log.file, log.board.file):
            full.file.room = 10_000  # type: ignore[attr-defined]
        log.write(4, {"loss": 2.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, "loss": 0.5 * step} for step in (1, 2, 3, 4)]
    assert scalars(tmp_path) == [("loss", 0.5 * step, step) for step in (1, 2, 3, 4)]
    assert capsys.readouterr().out == ""


def test_what_never_finds_room_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Appended(tmp_path / "x")
    file.file = Full(file.file, 2)  # type: ignore[assignment]
    file.write(b"12345")
    file.close()
    assert f"{tmp_path / 'x'} lacks its last 3 bytes" in capsys.readouterr().out
    assert (tmp_path / "x").read_bytes() == b"12"


def test_the_lines_so_far_outlive_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n{"step": 4}\n')

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*metrics\.jsonl"):
        RunLog(tmp_path, name="x", recipe={}, step=2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 2}\n{"step": 4}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
