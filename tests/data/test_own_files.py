"""A tar and the folder that it was made of are the same files."""

from __future__ import annotations

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
