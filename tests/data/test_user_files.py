"""A tar and the folder that it was made of are the same files."""

from __future__ import annotations

import gzip
import os
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from hostile import extra, header, member, pax

from mmssl.data.user_files import Files, read_files, read_whole
from mmssl.data.writer import build
from mmssl.errors import DamagedError, UserError


def test_a_tar_is_its_folder(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b.txt", "a.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    for arcname in (".", ""):
        with tarfile.open(tmp_path / "in.tar", "w") as tar:
            tar.add(tmp_path / "in", arcname=arcname)
        files = read_files(tmp_path / "in.tar", expected="texts")
        assert files == read_files(tmp_path / "in", expected="texts")
    assert files["b/2.txt"] == b"b/2.txt"
    assert set(files) == {"a.txt", "b.txt", "b/2.txt"}


def test_anything_else(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar")
    for source in ("x.tar", "none"):
        with pytest.raises(UserError, match=f"{source} is neither a tar nor a folder; expected one with texts"):
            read_files(tmp_path / source, expected="texts")


def test_hidden_files_are_passed_over_and_broken_tars_named(tmp_path: Path) -> None:
    for name in ("a.txt", "b/1.txt", "._a.txt", "b/.DS_Store", ".git/x.txt", "__MACOSX/b/1.txt", "Thumbs.db"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(tmp_path / "in", arcname=".")
    for source in ("in", "in.tar"):
        assert set(read_files(tmp_path / source, expected="texts")) == {"a.txt", "b/1.txt"}
    data = (tmp_path / "in.tar").read_bytes()
    with gzip.open(tmp_path / "whole.tar.gz", "wb") as file:
        file.write(data)
    packed = (tmp_path / "whole.tar.gz").read_bytes()
    cuts = {"header.tar": data[:2000], "data.tar": data[:2600], "x.tar.gz": packed[: len(packed) // 2]}
    for name, cut in cuts.items():
        (tmp_path / name).write_bytes(cut)
        with pytest.raises(UserError, match=f"{name} cannot be read to its end: .*; fetch or pack it again"):
            read_files(tmp_path / name, expected="texts")
    (tmp_path / "in/c.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot read '.*c.txt': No such file"):
        read_files(tmp_path / "in", expected="texts")


@pytest.mark.parametrize("kind", ["x.tar", "x.tar.gz", "folder"])
def test_what_exceeds_a_limit_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("MMSSL_LIMITS", "member_bytes=1000")
    (tmp_path / "folder").mkdir()
    for name, size in {"a": 1000, "b": 1001, "c": 3}.items():
        (tmp_path / "folder" / name).write_bytes(name.encode() * size)
    if kind != "folder":
        with tarfile.open(tmp_path / kind, "w:gz" if kind.endswith("gz") else "w") as tar:
            tar.add(tmp_path / "folder", arcname=".")
    with closing(Files(tmp_path / kind, expected="texts")) as files:
        assert files.names == ["a", "b", "c"]
        assert (files.read("c"), files.read("a")) == (b"ccc", b"a" * 1000)
        with pytest.raises(DamagedError, match="a file larger than the limit member_bytes"):
            files.read("b")
    with pytest.raises(UserError, match="a file larger than the limit member_bytes: .*b"):
        read_files(tmp_path / kind, expected="texts")


def test_hostile_tars_are_refused_in_one_line(tmp_path: Path) -> None:
    hostile = {
        "names": extra(b"", tarfile.GNUTYPE_LONGNAME, claim=2**40),
        "circle": member("a", b"1") + pax(size="-1536") + header("b"),
        "beyond": header("a", 2**62, base256=True),
    }
    for name, data in hostile.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"{name} (cannot be read to its end: .*; fetch|is neither a tar)"):
            read_files(tmp_path / name, expected="texts")


def test_devices_and_pipes_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    for name in ("pipe.txt", "zero.txt"):
        with pytest.raises(DamagedError, match="a device or a pipe in place of a file"):
            read_whole(tmp_path / name)
    (tmp_path / "good.txt").write_text("good")
    index = build(tmp_path, tmp_path.parent / f"{tmp_path.name}-out", workers=1)
    assert (index["samples"], index["damaged"]) == (1, {"a device or a pipe in place of a file": 2})
