"""A tar and the folder that it was made of are the same files."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from mmssl.data.own_files import read_files
from mmssl.errors import UserError


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
