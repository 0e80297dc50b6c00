"""One writer for a folder: what lives is told from what is dead, on this machine and on another."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmssl import lock
from mmssl.errors import UserError
from mmssl.lock import NAME, confirm, hold

HOLDS = """
import os, sys
from pathlib import Path
from mmssl.lock import hold

with hold(Path(sys.argv[1])):
    if len(sys.argv) > 2 and os.fork() == 0:  # a data worker
        os.write(1, b"forked %d\\n" % os.getpid())
        sys.stdin.read()
        os._exit(0)
    os.write(1, b"holds %d\\n" % os.getpid())
    sys.stdin.read()
"""
Start = Callable[..., tuple["subprocess.Popen[str]", dict[str, int]]]


@pytest.fixture
def other() -> Iterator[Start]:
    """Starts a process that holds a folder, and one that it forked, until their input ends."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path, *words: str) -> tuple[subprocess.Popen[str], dict[str, int]]:
        call = [sys.executable, "-c", HOLDS, str(folder), *words]
        process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        said = [process.stdout.readline().split() for _ in range(1 + len(words))]
        return process, {name: int(number) for name, number in said}

    yield start
    for process in started:
        process.communicate()
        process.wait()


def left_by(folder: Path, *, age: float = 0.0, **holder: object) -> Path:
    """Leaves a lock as a process on another machine would, touched so many seconds ago."""
    folder.mkdir(exist_ok=True)
    path = folder / NAME
    told = {"host": "node7", "pid": 4711, "since": "2026-01-02 03:04:05 UTC", "machine": "another", "token": "theirs"}
    path.write_text(json.dumps({**told, **holder}))
    touched = path.stat().st_mtime - age
    os.utime(path, (touched, touched))
    return path


def beats(path: Path, patch: pytest.MonkeyPatch) -> None:
    """Lets the lock's holder touch it whenever somebody watches; no clock is waited for."""
    patch.setattr(lock.time, "sleep", lambda seconds: os.utime(path, ns=(0, path.stat().st_mtime_ns + 1)))


def never(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lock.time, "sleep", lambda seconds: pytest.fail("there is nothing to wait for"))


def test_a_folder_is_held_by_one_and_given_back(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with hold(folder):
        assert json.loads((folder / NAME).read_text())["pid"] == os.getpid()
        with pytest.raises(UserError, match=rf"new is in use by process {os.getpid()} on .* since 20.*remove .*\.lock"):
            hold(folder).__enter__()
        confirm(folder)
        with hold(tmp_path / "beside"):
            pass
    assert not folder.exists(), "it was made for the lock, and nothing came of it"
    with pytest.raises(RuntimeError, match="stop"), hold(folder):
        (folder / "x").touch()
        raise RuntimeError("stop")
    assert [path.name for path in folder.iterdir()] == ["x"]
    (tmp_path / "empty").mkdir()
    with hold(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir(), "it was there before"
    assert not lock.HELD


def test_another_process_holds_it_as_long_as_it_lives(
    other: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    never(monkeypatch)
    process, said = other(tmp_path)
    with pytest.raises(UserError, match=rf"is in use by process {said['holds']} on "):
        hold(tmp_path).__enter__()
    assert (tmp_path / NAME).exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / NAME).exists(), "nobody could remove it"
    with hold(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert f"taken over from process {said['holds']} on " in capsys.readouterr().out
    assert not (tmp_path / NAME).exists()


def test_a_forked_worker_that_outlives_its_parent_holds_nothing(
    other: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never(monkeypatch)
    process, said = other(tmp_path, "forks")
    with pytest.raises(UserError, match="is in use"):
        hold(tmp_path).__enter__()
    process.send_signal(signal.SIGKILL)
    process.wait()
    os.kill(said["forked"], 0)  # it lives, and waits for its input to end
    with hold(tmp_path):
        pass


def test_a_lock_of_another_machine_that_beats_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = left_by(tmp_path)
    beats(path, monkeypatch)
    with pytest.raises(UserError, match=r"in use by process 4711 on node7 since 2026-01-02 03:04:05 UTC; wait until"):
        hold(tmp_path).__enter__()
    assert json.loads(path.read_text())["token"] == "theirs"


def test_one_that_is_silent_for_long_enough_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    now = [100.0]
    monkeypatch.setattr(lock.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: waited.append(seconds) or now.__setitem__(0, now[0] + 1))
    left_by(tmp_path, age=lock.SILENT / 2)
    with hold(tmp_path):
        assert lock.SILENT / 2 - 2 <= len(waited) <= lock.SILENT / 2, "by the file's own time"
    said = capsys.readouterr().out
    assert "watching up to 30 s whether process 4711 on node7" in said and "taken over from process 4711" in said
    never(monkeypatch)
    left_by(tmp_path, age=lock.SILENT + 1)
    with hold(tmp_path):
        pass


def test_times_in_the_future_keep_nobody_waiting_for_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(lock.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + 1))
    left_by(tmp_path, age=-1e8)
    with hold(tmp_path):
        assert now[0] <= 101 + lock.SILENT


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, None])
def test_where_files_cannot_be_locked_the_beat_decides(
    number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(handle: int, how: int) -> None:
        raise OSError(number, os.strerror(number or 0))

    if number is None:
        monkeypatch.setattr(lock, "fcntl", None)
    else:
        monkeypatch.setattr(lock.fcntl, "flock", unable)
    with hold(tmp_path), monkeypatch.context() as patch:
        beats(tmp_path / NAME, patch)
        with pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
            hold(tmp_path).__enter__()
    assert not (tmp_path / NAME).exists()
    never(monkeypatch)
    left_by(tmp_path, age=lock.SILENT + 1, machine=lock._machine())
    with hold(tmp_path):
        pass


def test_a_held_lock_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 3 * lock.BEAT <= lock.SILENT
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with hold(tmp_path):
        os.utime(tmp_path / NAME, (1.0, 1.0))
        for _ in range(6000):
            if (tmp_path / NAME).stat().st_mtime > 1.0:
                break
            time.sleep(0.01)
        assert (tmp_path / NAME).stat().st_mtime > 1.0


def test_one_who_lost_its_lock_is_told(tmp_path: Path) -> None:
    confirm(tmp_path)  # who has none has lost none
    with hold(tmp_path):
        left_by(tmp_path)
        with pytest.raises(UserError, match="was taken over by another process while this one did not answer"):
            confirm(tmp_path)
    with hold(tmp_path):
        (tmp_path / NAME).unlink()
        confirm(tmp_path)
        left_by(tmp_path)
        with pytest.raises(UserError, match="was taken over"):
            confirm(tmp_path)
    assert (tmp_path / NAME).exists(), "it is not this process's to remove"


def test_a_lock_that_its_holder_removes_meanwhile_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening of the file and its locking; two would hold the folder otherwise, each another file."""
    real, path = lock._lock, tmp_path / NAME
    turns: list[int] = []

    def removed(path: Path, handle: int) -> bool:
        turns.append(handle)
        if len(turns) <= 2:
            path.unlink()
        if len(turns) == 2:
            path.touch()
        return real(path, handle)

    monkeypatch.setattr(lock, "_lock", removed)
    with hold(tmp_path):
        assert len(turns) == 3 and json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    "text", ["", "[", "[" * 2000, "[1]", "null", "1" * 5000, '{"host": {"a": 1}, "pid": "\\u001b[2J\\n"}']
)
def test_whatever_a_lock_says_is_one_line_of_plain_text(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / NAME).write_text(text)
    os.utime(tmp_path / NAME, (1.0, 1.0))
    with hold(tmp_path):
        (tmp_path / NAME).write_text(text)
        with pytest.raises(UserError) as caught:
            hold(tmp_path).__enter__()
    for line in (str(caught.value), *capsys.readouterr().out.splitlines()):
        assert (re.fullmatch(r"[ -~]+", line) and "in use by" in line) or "taken over" in line


def test_no_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / NAME).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=r"\.lock"):
        hold(tmp_path / "run").__enter__()
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        hold(tmp_path / "file").__enter__()
    assert caught.value.filename == str(tmp_path / "file")

    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lock.os, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        hold(tmp_path / "new").__enter__()
    assert caught.value.filename == str(tmp_path / "new" / NAME)
