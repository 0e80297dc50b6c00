"""Files that take each other's place whole or not at all, whatever the system refuses meanwhile."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest
import torch

from mmssl.files import naming, replacing, together, write_atomically


def listed(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    write_atomically(tmp_path / "in" / "x", b"old")
    with pytest.raises(RuntimeError, match="stop"), replacing(tmp_path / "in" / "x") as temporary:
        temporary.write_bytes(b"half")
        assert listed(tmp_path / "in")["x"] == "old"
        raise RuntimeError("stop")
    assert listed(tmp_path / "in") == {"x": "old"}
    write_atomically(tmp_path / "in" / "x", b"new")
    assert listed(tmp_path / "in") == {"x": "new"}


def test_what_a_killed_process_left_is_written_over_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / ".x.tmp").write_text("half")
    write_atomically(tmp_path / "x", b"new")
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".x.tmp").symlink_to(tmp_path / "mine")
    write_atomically(tmp_path / "x", b"newer")
    assert listed(tmp_path) == {"x": "newer", "mine": "precious"}


def test_files_take_their_places_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        write_atomically(tmp_path / name, b"old")
    with together():
        write_atomically(tmp_path / "a", b"new")
        write_atomically(tmp_path / "b", b"new")
        assert {listed(tmp_path)[name] for name in "ab"} == {"old"}
    assert listed(tmp_path) == {"a": "new", "b": "new"}
    with pytest.raises(OSError, match="no room"), together():
        write_atomically(tmp_path / "a", b"newer")
        raise OSError("no room")
    assert listed(tmp_path) == {"a": "new", "b": "new"}
    write_atomically(tmp_path / "a", b"newest")
    assert listed(tmp_path) == {"a": "newest", "b": "new"}, "at once where nothing was asked"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_an_error_names_the_file(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(handle: int) -> None:
        raise OSError(number, os.strerror(number))  # as the system calls on an open file do, without a name

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(OSError) as caught:
        write_atomically(tmp_path / "x", b"new")
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "x"))
    assert "->" not in str(caught.value) and listed(tmp_path) == {}


def test_places_that_hold_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder" / "in").mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as caught:
        write_atomically(tmp_path / "folder", b"")
    assert caught.value.filename == str(tmp_path / "folder")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x", tmp_path / ("n" * 300)):
        with pytest.raises(OSError) as caught:
            write_atomically(path, b"")
        assert caught.value.errno in (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


class Full(io.RawIOBase):
    """A file on a disk that takes so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        if size > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= size
        return size


def test_what_torch_makes_of_a_full_disk() -> None:
    """It wraps the error once or twice, or lets it through, as the place has it where the disk is full."""
    state = {"x": torch.zeros(30_000), "y": [torch.zeros(9)] * 5}
    whole = io.BytesIO()
    torch.save(state, whole)
    kinds: set[type] = set()
    for part in (0, 0.001, 0.01, 0.1, 0.5, 0.98, 0.99, 0.999):
        with (
            pytest.raises(OSError, match="No space left on device.*mine") as caught,
            naming(Path("mine")),
            io.BufferedWriter(Full(int(part * len(whole.getvalue())))) as file,
        ):
            torch.save(state, file)
        kinds.add(type(caught.value.__cause__))
    with pytest.raises(OSError, match="No space left on device.*mine") as caught, naming(Path("mine")):
        torch.save(state, Full(70_000))  # type: ignore[arg-type]
    assert {*kinds, type(caught.value.__cause__)} == {OSError, RuntimeError}


def test_other_errors_stay_as_they_are() -> None:
    for error in (ValueError("no number"), OSError("without a number"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, naming(Path("mine")):
            raise error
        assert caught.value is error
    with pytest.raises(ValueError, match="told"), naming(Path("mine")):
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError:
            raise ValueError("told") from None
