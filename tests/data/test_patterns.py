"""Patterns of shards: braces are counted before they are expanded, and no file that is found becomes a command."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import braceexpand
import pytest
from numbered import number_set, write_tar
from webdataset.gopen import gopen

from mmssl.cli import main
from mmssl.data import patterns, shards
from mmssl.data.patterns import _stands_for, as_file, expand, is_local, urls
from mmssl.data.shards import Source
from mmssl.data.verify import show, verify
from mmssl.data.writer import build
from mmssl.errors import UserError

COMMANDS = ("pipe:touch marker;.tar", "pipe:touch marker;x.tar", "http:x.tar", "hf:a.tar", "s3:b.tar", "file:c.tar")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with shards that are named as commands and addresses."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(COMMANDS):
        write_tar(tmp_path / name, [{"__key__": "1", "txt": str(number).encode()}])
    return tmp_path


def test_webdataset_would_run_these(here: Path) -> None:
    with contextlib.suppress(OSError):  # .tar is no command
        gopen(COMMANDS[0]).close()
    assert (here / "marker").exists(), "or what follows tests nothing"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes every folder's index.json list these names; `read_index` itself refuses most of them."""

    def lists(*names: str) -> None:
        found = {"shards": [{"name": name, "samples": 1} for name in names]}
        for module in (patterns, shards):
            monkeypatch.setattr(module, "read_index", lambda _: found)

    return lists


@pytest.mark.parametrize("pattern", [".", "*.tar", "./*.tar", "?*:*.tar", "./", "listed"])
def test_found_files_are_no_commands(here: Path, pattern: str, index: Callable[..., None]) -> None:
    if pattern == "listed":
        index(*COMMANDS)
    source = Source(shards="." if pattern == "listed" else pattern)
    texts = {sample["text"] for sample in source.samples({"text"})}
    assert texts == {str(n) for n in range(len(COMMANDS))}
    assert source.counts == [1] * len(COMMANDS)
    assert all(map(is_local, source.shards))
    assert not (here / "marker").exists()


def test_no_verb_takes_found_files_for_commands(here: Path) -> None:
    assert verify(".", decode=True) == []
    assert "1: txt (1 bytes)" in show(".")
    assert build(".", here / "out", workers=1)["samples"] == len(COMMANDS)
    assert main(["shards", "verify", ".", "--decode"]) == 0
    assert not (here / "marker").exists()


def test_an_index_of_commands(here: Path) -> None:
    listed = [{"name": name, "samples": 1, "bytes": (here / name).stat().st_size} for name in COMMANDS]
    (here / "index.json").write_text(json.dumps({"format": "mmssl-shards-1", "shards": listed}))
    for verb in (lambda: list(Source(shards=".").samples({"text"})), lambda: verify("."), lambda: show(".")):
        with contextlib.suppress(UserError, KeyError):
            verb()
    assert not (here / "marker").exists()


def test_what_a_user_writes_stays_a_command(here: Path) -> None:
    number_set(here / "a", [2])
    for pattern in (
        f"pipe:touch marker; cat {here}/a/000.tar",
        ["a", f"{{pipe:touch marker; cat {here}/a/000.tar,a}}"],
    ):
        assert "pipe:" in " ".join(Source(shards=pattern).shards)
        assert len(list(Source(shards=pattern).samples({"text"}))) >= 2
        (here / "marker").unlink()
    assert [url for url in urls("{pipe:x,a}::http://b::c") if not is_local(url)] == ["pipe:x", "http://b"]
    assert Source(shards="file:a/000.tar").shards == ["a/000.tar"]
    assert Source(shards=f"file://{here}/a/000.tar").count == 2
    with pytest.raises(UserError, match="there is no shard file:b.tar"):
        Source(shards="file:b.tar")


@pytest.mark.parametrize(
    "name", [*COMMANDS, "-", "~x.tar", "a b.tar", " pipe:x.tar", "p\tipe:x.tar", "/pipe:x.tar", "1:x"]
)
def test_a_file_is_one_however_it_is_named(name: str) -> None:
    assert is_local(as_file(name))
    assert os.path.normpath(as_file(name)) == os.path.normpath(name)
    assert Path(as_file(name)) == Path(name)


@pytest.mark.parametrize("kind", ["pipe", "folder", "circle", "listed pipe"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.tar"
    {"folder": path.mkdir, "circle": lambda: path.symlink_to(tmp_path)}.get(kind, lambda: os.mkfifo(path))()
    if kind == "listed pipe":
        index = {"format": "mmssl-shards-1", "shards": [{"name": "x.tar", "samples": 1}]}
        (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"x.tar is no file; expected a tar"):
        Source(shards=str(tmp_path))
    if "pipe" in kind:
        with pytest.raises(UserError, match=r"x.tar is no file; expected a tar"):
            Source(shards=f"{tmp_path}/*.tar")


@pytest.mark.parametrize("name", ["*.tar", "{0..1}.tar", "a::b.tar", "[0]a.tar", "~", "${WDS_X}.tar", "pipe:x"])
def test_names_that_are_found_are_not_expanded(tmp_path: Path, name: str, index: Callable[..., None]) -> None:
    number_set(tmp_path, [3, 2])
    index(name)
    with pytest.raises(UserError, match="there is no shard"):
        Source(shards=str(tmp_path))
    (tmp_path / "000.tar").rename(tmp_path / name)
    assert Source(shards=str(tmp_path)).shards == [str(tmp_path / name)]


PATTERNS = (
    *("a", "", "{a,b}", "{a,b}{c,d,e}", "x{0..9}y", "{00..11}", "{3..-4}", "{0..9..3}", "{9..0..4}", "{0..9..0}"),
    *(
        "{a..e}",
        "{e..a}",
        "{Z..a}",
        "{a..z..5}",
        "{a,{b,c}}",
        "{a,{0..3}}{x,y}",
        "{{a,b}c,d}",
        "{a}",
        "{}",
        "{,}",
        "{,,}",
    ),
    *(
        "{a{b,c}}",
        r"\{a,b\}",
        r"{a\,b,c}",
        r"\\{a,b}",
        "{{a,b}}",
        "{1..2}{3..4}{5..6}",
        "{-5..5..-2}",
        "{1..a}",
        "{..}",
    ),
    *("a,b", "{a,b", "a}", "}{", "{a,}b{", "x{y}z{0..2}"),
)


def counted(pattern: str) -> int | None:
    try:
        return _stands_for(pattern)
    except UserError:
        return None


def expanded(pattern: str) -> int | None:
    try:
        return len(list(braceexpand.braceexpand(pattern)))
    except braceexpand.UnbalancedBracesError:
        return None


@pytest.mark.parametrize("pattern", PATTERNS)
def test_braces_are_counted_as_they_are_expanded(pattern: str) -> None:
    assert counted(pattern) == (None if pattern == "}{" else expanded(pattern))


def test_any_braces_are_counted_as_they_are_expanded() -> None:
    draw = random.Random(0)
    whole = 0
    for _ in range(3000):
        pattern = "".join(draw.choice(["{", "{", "}", "}", ",", "0..3", "b..d", "x", "\\"]) for _ in range(12))
        if (mine := counted(pattern)) is not None:
            assert mine == expanded(pattern), pattern
            whole += 1
    assert whole > 100


@pytest.mark.parametrize(
    "pattern",
    [
        *("{0..999999999}", "{0..999}{0..999}{0..999}", "{a,b}" * 40, "{{0..9999999},a}", "a::{0..2000000}"),
        *("::".join(["{0..600000}"] * 2), "{0..1" + "0" * 5000 + "}", "{" * 100 + "a,b" + "}" * 100, "{" * 10**6),
        *("{0000000..9999999}" + "a" * 10**6, "x" + "{,}" * 200),
    ],
    ids=lambda pattern: pattern[:30],
)
def test_braces_are_bounded(pattern: str) -> None:
    with pytest.raises(UserError, match=r"shards=|document_depth=|shorter numbers") as told:
        expand(pattern)
    assert len(str(told.value)) < 600
    with pytest.raises(UserError):
        expand(["a", pattern])


def test_the_limit_is_raised_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = number_set(tmp_path / "a", [1] * 12)
    monkeypatch.setenv("MMSSL_LIMITS", "shards=10")
    for pattern in (f"{shards}/{{000..011}}.tar", shards, f"{shards}/*.tar", [f"{shards}/000.tar"] * 12, f"{shards}/*"):
        with pytest.raises(UserError, match=r"stands for 1[12] shards or more; the limit is shards=10; .* --limits"):
            expand(pattern)
    monkeypatch.setenv("MMSSL_LIMITS", "shards=12")
    assert len(expand(f"{shards}/*.tar")) == len(expand(f"{shards}/{{000..011}}.tar")) == 12


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("a{b", "a brace without its other"),
        ("${NOT_THERE}/x.tar", "missing environment variable"),
        ("x" * 5000, "there is no shard"),
        ("x" * 300 + "/*.tar", "there is no shard"),
        ("a\0b.tar", "there is no shard"),
        ("~nobody-of-this-name/x.tar", "there is no shard"),
        ("http://[x", "is no address"),
        ("azure://a/b.tar", "webdataset opens no 'azure'"),
    ],
)
def test_patterns_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        expand(pattern)


def test_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number_set(tmp_path / "a", [1, 1])
    monkeypatch.setenv("WDS_ROOT", str(tmp_path))
    monkeypatch.setenv("WDS_SET", "${ROOT}/a")
    assert expand("${SET}/{000..001}.tar") == [f"{tmp_path}/a/00{n}.tar" for n in range(2)]
