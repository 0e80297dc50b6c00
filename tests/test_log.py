"""Where figures go: one line of JSON each, TensorBoard, and Weights & Biases when asked."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch.utils.tensorboard

from mmssl.errors import UserError
from mmssl.log import RunLog


class Board:
    """Stands in for TensorBoard's writer."""

    made: ClassVar[list[Board]] = []

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        self.folder, self.purge, self.scalars, self.closed = folder, purge_step, [], False
        self.made.append(self)

    def add_scalar(self, *values: Any) -> None:
        self.scalars.append(values)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> list[Board]:
    monkeypatch.setattr(torch.utils.tensorboard, "SummaryWriter", Board)
    monkeypatch.setattr(Board, "made", [])
    return Board.made


def test_each_step_is_a_line_and_a_scalar(tmp_path: Path, boards: list[Board]) -> None:
    with RunLog(tmp_path, name="x", recipe={}) as log:
        log.write(1, {"loss": 1.23456789, "lr": 0.1})
        written = (tmp_path / "metrics.jsonl").read_text()
        assert written.endswith("}\n"), "each line is there at once"
        log.write(2, {"loss": float("inf")})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines == ['{"step": 1, "loss": 1.234568, "lr": 0.1}', '{"step": 2, "loss": null}']
    (board,) = boards
    assert board.scalars == [("loss", 1.23456789, 1), ("lr", 0.1, 1), ("loss", float("inf"), 2)]
    assert (board.folder, board.purge, board.closed, log.file.closed) == (tmp_path / "tensorboard", None, True, True)


def test_after_a_resume_lines_of_later_steps_are_dropped(tmp_path: Path, boards: list[Board]) -> None:
    before = [json.dumps({"step": step, "loss": step}) for step in (2, 4, 4, 6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*before, '{"step": 8, "lo']))
    with RunLog(tmp_path, name="x", recipe={}, step=4) as log:
        log.write(5, {"loss": 0.5})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 4, 5] and lines[1] == {"step": 4, "loss": 4}
    assert boards[0].purge == 5
    RunLog(tmp_path, name="x", recipe={}).close()
    assert (tmp_path / "metrics.jsonl").read_text() == "", "a run from the beginning keeps none"


def test_cut_lines_are_not_read(tmp_path: Path, boards: list[Board]) -> None:
    (tmp_path / "metrics.jsonl").write_text('"step": 1}\n{"step": 2}\n{"step": 3\n')
    RunLog(tmp_path, name="x", recipe={}, step=9).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 2}\n'


def test_weights_and_biases(tmp_path: Path, boards: list[Board], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    run = SimpleNamespace(log=lambda values, step: said.append((values, step)), finish=lambda: said.append("finish"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **options: said.append(options) or run))
    RunLog(tmp_path, name="x", recipe={}).close()
    assert not said, "only when asked"
    with RunLog(tmp_path, name="x", recipe={"a": 1}, wandb=True) as log:
        log.write(3, {"loss": 0.5})
    options = {"project": "mmssl", "name": "x", "dir": str(tmp_path), "config": {"a": 1}, "resume": "allow"}
    assert said == [options, ({"loss": 0.5}, 3), "finish"]


def test_weights_and_biases_must_be_installed(
    tmp_path: Path, boards: list[Board], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **options: Any) -> Any:
        if name == "wandb":
            raise ModuleNotFoundError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'mmssl\[wandb\]'"):
        RunLog(tmp_path, name="x", recipe={}, wandb=True)


def test_lines_that_are_none_are_left_out(tmp_path: Path, boards: list[Board]) -> None:
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
