"""Every reader of documents ends in what it read or in one line, whatever is done to the document."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import garble
from documents import READERS, Reader
from garbling import MARKER, garbled, garbled_bytes

from mmssl.errors import UserError

TOOLS = Path(__file__).parents[2] / "tools"


def test_garbled_documents_end_well() -> None:
    """The long run is `python tools/garble.py`."""
    command = [sys.executable, str(TOOLS / "garble.py"), "--each", "60", "--seed", "1", "--jobs", "1"]
    paths = os.pathsep.join([str(TOOLS.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
    assert done.returncode == 0, done.stdout + done.stderr
    figures = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [line[0].strip("| ") for line in figures] == list(READERS)
    for reader, count, _, refused, faults, _ in figures:
        assert int(count) == 60 and int(faults) == 0
        assert int(refused) > 5 or reader == "| metrics", "most documents are no longer whole"


def raises(error: BaseException) -> Callable[[], Any]:
    def read() -> None:
        raise error

    return read


def test_memory_is_a_fault_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for grown, kind in ((2**20, "read"), (2**20 + 1, "FAULT")):
        most = iter([100, 100 + grown])
        monkeypatch.setattr(garble.resource, "getrusage", lambda _, most=most: SimpleNamespace(ru_maxrss=next(most)))
        assert garble.outcome(lambda: 3)[0] == kind


@pytest.mark.parametrize(
    ("read", "kind", "said"),
    [
        (lambda: 3, "read", ""),
        (raises(UserError("one line")), "refused", "one line"),
        (raises(UserError("two\nlines")), "FAULT", "not one line: 'two\\nlines'"),
        (raises(UserError("")), "FAULT", "not one line: ''"),
        (raises(UserError("DefaultCPUAllocator: can't allocate")), "FAULT", "asked for too much"),
        (raises(UserError("x" * 4000)), "FAULT", "4000 characters: xxx"),
        (raises(KeyError("x")), "FAULT", "KeyError in test_garble.py:"),
        (raises(SystemExit(0)), "FAULT", "SystemExit in test_garble.py:"),
        (lambda: Path(f"{MARKER}.tar").touch(), "FAULT", "a command was executed"),
    ],
)
def test_a_fault_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[], Any], kind: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = garble.outcome(read)
    assert found[0] == kind and found[1].startswith(said)


CHILDREN = """
import argparse, os, sys, time
from pathlib import Path
import garble
from documents import Reader

cases = Path(sys.argv[1])
hanging = cases / "hanging"

def read(case):
    number = int((case / "x.json").read_text())
    if number == 1: os.abort()
    if number == 3: hanging.touch(), time.sleep(600)
    if number == 5: raise KeyError(number)

time.monotonic = lambda: 100.0 if hanging.exists() else 0.0
garble.READERS["x"] = Reader(lambda folder: None, "x.json", read)
garble.document = lambda reader, whole, number, seed: str(number).encode()
found = garble.garble("x", cases, argparse.Namespace(each=7, jobs=1, seed=0, limit=50))
print([(number, kind, said[:10]) for number, kind, said in found])
"""


def test_a_document_that_ends_its_process_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "cases" / "one").mkdir(parents=True)
    (tmp_path / "cases" / "one" / "x.json").write_text("0")
    paths = os.pathsep.join([str(TOOLS), str(TOOLS.parent)])
    command = [sys.executable, "-c", CHILDREN, str(tmp_path / "cases")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
    bad = {1: "the proces", 3: "hangs for ", 5: "KeyError i"}
    expected = [(n, "FAULT", bad[n]) if n in bad else (n, "read", "") for n in range(7)]
    assert done.stdout.strip() == str(expected), done.stderr


WHOLE = {"a": [1, {"b": "text"}], "c": {"d": 0.5, "e": None}}


def test_changes_are_many_and_come_again() -> None:
    made = [garbled(WHOLE, random.Random(seed)) for seed in range(300)]
    assert repr(made) == repr([garbled(WHOLE, random.Random(seed)) for seed in range(300)])
    assert WHOLE == {"a": [1, {"b": "text"}], "c": {"d": 0.5, "e": None}}, "the whole one stays"
    assert len({repr(value) for value in made}) > 200 and sum(value == WHOLE for value in made) < 30
    data = json.dumps(WHOLE).encode()
    cut = [garbled_bytes(data, random.Random(seed)) for seed in range(300)]
    assert len(set(cut)) > 200 and garbled_bytes(data, random.Random(3)) == cut[3]


@pytest.mark.parametrize("name", READERS)
def test_whole_documents_are_read(name: str, tmp_path: Path) -> None:
    reader: Reader = READERS[name]
    reader.make(tmp_path)
    cases = [path for path in tmp_path.iterdir() if (path / reader.file).is_file()]
    assert cases
    for case in cases:
        reader.read(case)
        values = reader.load((case / reader.file).read_bytes())
        (case / reader.file).write_bytes(reader.dump(values))
        reader.read(case)
