"""Documents are read within limits, and plain values fit their declared types or are refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TypedDict

import pytest

from mmssl.errors import UserError
from mmssl.schema import fit, parse_yaml, read_json, read_yaml


class Shard(TypedDict):
    name: str
    samples: int


class Part(TypedDict, total=False):
    shards: list[Shard]
    ratio: float


def test_records_are_matched_key_by_key() -> None:
    whole = {"shards": [{"name": "a", "samples": 3.0, "more": []}], "ratio": "1e-3", "other": 1}
    fitted = fit(whole, Part, "it")
    assert fitted == {"shards": [{"name": "a", "samples": 3, "more": []}], "ratio": 0.001, "other": 1}
    assert type(fitted["shards"][0]["samples"]) is int
    for wrong in (
        {"shards": [{"name": "a"}]},
        {"shards": {"name": "a", "samples": 1}},
        {"shards": [{"name": 3, "samples": 1}]},
        {"ratio": [1]},
        [],
        {"shards": [{"name": "a", "samples": 1.5}]},
        {"ratio": 10**400},
    ):
        with pytest.raises(UserError, match=r"^it is .*expected a mapping with shards"):
            fit(wrong, Part, "it")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 10)}]}}\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        MERGES,
        "&a [*a]",
        "a: &a {b: *a}",
        "[" * 70 + "]" * 70,
        "[" * 5000,
        "? [a]\n: b",
        "!!python/object/apply:os.system [echo]",
        "a: 2026-99-99",
        "a: !!int x",
        "a: b: c",
        "--- 1\n--- 2\n",
        "a: \x00",
    ],
)
def test_hostile_yaml_is_one_line_at_once(text: str) -> None:
    began = time.process_time()
    with pytest.raises(UserError, match="^it (is not YAML|holds too many)") as caught:
        parse_yaml(text, where="it")
    assert "\n" not in str(caught.value) and time.process_time() - began < 5


def test_aliases_that_repeat_little_are_read() -> None:
    read = parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a\n", where="it")
    assert read == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1}}
    assert parse_yaml("", where="it") is None


@pytest.mark.parametrize("data", [b"{", b"[" * 100_000, b"[" * 70 + b"]" * 70, b"1" * 5000, b"\xff\xfe", b""])
def test_hostile_json_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "it.json").write_bytes(data)
    with pytest.raises(UserError, match=r"it\.json (is not|is nested)") as caught:
        read_json(tmp_path / "it.json")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for read, most in ((read_json, "json_bytes"), (read_yaml, "yaml_bytes")):
        file: Any = tmp_path / "it"
        with pytest.raises(UserError, match="cannot read .*No such file"):
            read(file)
        with pytest.raises(UserError, match="cannot read .*Is a directory"):
            read(tmp_path)
        file.write_bytes("\ufeff[1]".encode())
        assert read(file) == [1]
        monkeypatch.setenv("MMSSL_LIMITS", f"{most}=5")
        with pytest.raises(UserError, match=rf"has 6 bytes; the limit is {most}=5;"):
            read(file)
        file.unlink()
