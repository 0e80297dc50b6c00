"""Names that are written into shards: all of them unpack into the folder that is unpacked to, and are read back."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import pytest
from hostile import END, member, pax

from mmssl.data.making import LEADS_OUT, NO_NAME, UNREADABLE
from mmssl.data.members import LARGE
from mmssl.data.shards import Source
from mmssl.data.writer import build, build_from
from mmssl.errors import DamagedError

NAMES: dict[str, str] = {
    "/etc/x.txt": LEADS_OUT,
    "//x.txt": LEADS_OUT,
    "../x.txt": LEADS_OUT,
    "a/../../x.txt": LEADS_OUT,
    "a/b/../x.txt": LEADS_OUT,
    "./../x.txt": LEADS_OUT,
    "a\\..\\x.txt": LEADS_OUT,
    "a\\b.txt": LEADS_OUT,
    "C:/x.txt": LEADS_OUT,
    "c:x.txt": LEADS_OUT,
    "a\nb.txt": NO_NAME,
    "a\x1b[2J.txt": NO_NAME,
    "a\x7f.txt": NO_NAME,
    "a\x9b.txt": NO_NAME,
    "n" * 300 + ".txt": NO_NAME,
    "ü" * 130 + ".txt": NO_NAME,
    "d/" * 1000 + "e" * 200 + "/" + "f" * 200 + ".t" + "x" * 300: NO_NAME,
    "a.": UNREADABLE,
    "a._x": UNREADABLE,
    "a..txt": "",
    "-rf.txt": "",
    "~/x.txt": "",
    "~x.txt": "",
    "./x.txt": "",
    "a//x.txt": "",
    "pipe:touch marker;.txt": "",
    "$(touch marker).txt": "",
    "`touch marker`.txt": "",
    "ü ñ.txt": "",
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_other_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/0.tar").write_bytes(pax(path=name) + member("x", b"hello") + member("safe.txt", b"safe") + END)
    index = build("in", "a/b/out", workers=1)
    reason = NAMES[name]
    assert index["damaged"] == ({reason: 1} if reason else {})
    assert index["samples"] == (1 if reason else 2)
    if reason:
        assert all(sign.isprintable() for sign in index["examples"][reason][0])
        with pytest.raises(DamagedError, match=reason.split(",")[0]):
            build("in", "strict", workers=1, strict=True)
    else:
        given, made = Source(shards="in"), Source(shards="a/b/out")
        assert [s["__key__"] for s in made.samples(set())] == [s["__key__"] for s in given.samples(set())]
    (tmp_path / "a/b/unpacked").mkdir()
    before = set(tmp_path.rglob("*"))
    subprocess.run(["tar", "-xPf", "../out/00000.tar"], cwd="a/b/unpacked", check=True)  # -P: as the names are
    new = set(tmp_path.rglob("*")) - before
    assert new and all(path.is_relative_to(tmp_path / "a/b/unpacked") for path in new)
    assert not (tmp_path / "marker").exists()


def named(key: str, field: str, number: int) -> dict[str, bytes]:
    return {"__key__": key, field: b"x"} if number else {"txt": b"safe"}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("key", "field", "reason"),
    [
        *(("/etc/x", "txt", LEADS_OUT), ("x", "a/../../b.txt", LEADS_OUT), ("a\0b", "txt", NO_NAME)),
        *(("a.b", "txt", UNREADABLE), (".a", "txt", UNREADABLE), ("__a__/b", "txt", UNREADABLE)),
        *(("", "txt", UNREADABLE), ("a/", "txt", UNREADABLE), ("x", "a/b.txt", UNREADABLE), ("x", "", UNREADABLE)),
        *(("__MACOSX/a", "txt", UNREADABLE), ("x", "_y", UNREADABLE), ("\ud800", "txt", NO_NAME)),
        *(("__a__", "txt", ""), ("a", "TXT", ""), ("a/b", "mask.png", ""), ("\udcff", "txt", "")),
    ],
)
def test_names_that_a_function_gives(tmp_path: Path, key: str, field: str, reason: str) -> None:
    index = build_from(functools.partial(named, key, field), 2, tmp_path / "a", workers=1)
    assert index["damaged"] == ({reason: 1} if reason else {})
    keys = [entry.key for entry in Source(shards=str(tmp_path / "a")).entries(0)]
    assert keys == ["00000000", *([] if reason else [key])]


def test_what_is_too_large_stays_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSSL_LIMITS", "member_bytes=1000")
    (tmp_path / "0.tar").write_bytes(member("a.txt", b"1") + member("b.txt", bytes(1001)) + member("c.txt", b"3") + END)
    index = build(str(tmp_path / "0.tar"), tmp_path / "a", workers=1)
    assert (index["samples"], index["damaged"]) == (2, {LARGE: 1})
    (tmp_path / "in").mkdir()
    for name, size in {"a.txt": 1000, "b.txt": 1001}.items():
        (tmp_path / "in" / name).write_text("x" * size)
    assert build(tmp_path / "in", tmp_path / "b", workers=1)["damaged"] == {LARGE: 1}
