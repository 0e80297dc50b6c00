"""The journal of an interrupted build: what is damaged in it costs no finished shard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmssl.data import journal
from mmssl.data.writer import build_from
from mmssl.errors import UserError


def make(number: int) -> dict[str, bytes]:
    return {"txt": str(number).encode()}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build of four shards that stopped after two."""
    write, written = journal._write_shard, list[Path]()

    def stop(path: Path, *rest: Any) -> Any:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        return write(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            again(tmp_path / "a")
    return tmp_path / "a"


def again(folder: Path) -> dict[str, Any]:
    return build_from(make, 40, folder, shard_samples=10, workers=1)


def entry(change: Callable[[Any], Any]) -> Callable[[list[bytes]], list[bytes]]:
    """Changes the number and entry of the second shard."""

    def changed(lines: list[bytes]) -> list[bytes]:
        record = json.loads(lines[2])
        return [*lines[:2], json.dumps(change(record) or record).encode()]

    return changed


DAMAGE: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "garbled": lambda lines: [lines[0], b"{", lines[2]],
    "not text": lambda lines: [lines[0], b"\xff\xfe", lines[2]],
    "nested": lambda lines: [*lines, b"[" * 100_000],
    "a plan that is none": lambda lines: [b"3", *lines[1:]],
    "empty line": lambda lines: [lines[0], b"", *lines[1:]],
    "no record": lambda lines: [*lines[:2], b"{}"],
    "elsewhere": entry(lambda record: record[1].update(name="../precious.tar")),
    "another's name": entry(lambda record: record[1].update(name="00002.tar")),
    "another's number": entry(lambda record: [2, record[1]]),
    "beyond the plan": entry(lambda record: [9, {**record[1], "name": "00009.tar"}]),
    "negative": entry(lambda record: record[1].update(samples=-1)),
    "without bytes": entry(lambda record: record[1].pop("bytes") and None),
    "reasons of another kind": entry(lambda record: record[1].update(damaged={"cut": 3})),
    "labels of another kind": entry(lambda record: record[1].update(labels=[1])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_journal_costs_no_finished_shard(stopped: Path, damage: str) -> None:
    path = stopped / "build.journal"
    path.write_bytes(b"\n".join(DAMAGE[damage](path.read_bytes().splitlines())) + b"\n")
    before = content(stopped)
    with pytest.raises(UserError, match=r"build\.journal is damaged in line [1-4], .*choose another folder") as caught:
        again(stopped)
    assert content(stopped) == before and "\n" not in str(caught.value)


def test_a_whole_one_is_gone_on_with(stopped: Path, tmp_path: Path) -> None:
    assert again(stopped) == again(tmp_path / "b") and content(stopped) == content(tmp_path / "b")
