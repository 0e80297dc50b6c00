"""Documents are read within limits, and plain values fit their declared types or are refused."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pytest

from mmssl.errors import UserError
from mmssl.schema import (
    Count,
    FileName,
    Positive,
    above,
    at_least,
    at_most,
    below,
    fit,
    parse_yaml,
    read_json,
    read_yaml,
)


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
    for wrong, message in (
        ({"shards": [{"name": "a"}]}, "it: shards.0.samples is missing; expected int"),
        ({"shards": {"name": "a", "samples": 1}}, "it: shards is {'name': 'a', 'samples': 1}; expected list["),
        ({"shards": [{"name": "a", "samples": 1}, {"name": 3, "samples": 1}]}, "it: shards.1.name is 3; expected str"),
        ({"shards": [[]]}, "it: shards.0 is []; expected a mapping with name (str), samples (int)"),
        ({"ratio": [1]}, "it: ratio is [1]; expected float"),
        ([], "it is []; expected a mapping with shards (list["),
        ({"ratio": 10**400}, "it: ratio is 1000"),
    ):
        with pytest.raises(UserError) as caught:
            fit(wrong, Part, "it")
        assert str(caught.value).startswith(message)


NAN = float("nan")


@pytest.mark.parametrize(
    ("hint", "good", "bad", "wanted"),
    [
        (Count, [0, 3.0], [-1, 0.5, "1", True, None], "int of at least 0"),
        (
            Annotated[float, above(0), at_most(1)],
            [1, 0.5, "1e-3"],
            [0, 1.1, NAN, "x"],
            "float above 0 and of at most 1",
        ),
        (Annotated[float, at_least(0), below(1)], [0, 0.9], [1, -0.1, NAN, 1e999], "float of at least 0 and below 1"),
        (list[Count], [[], [1]], [[-1], 1, "1"], "list"),
        (Count | None, [None, 2], [-1], "at least 0"),
        (dict[str, Count], [{}, {"a": 1}], [{"a": -1}, {1: 1}, {None: 1}, []], "dict"),
        (Sequence[int], [[1], (1,), []], ["12", ["1"], {1: 1}, 1], "Sequence"),
        (Literal[1, 2], [1, 2.0], [True, [], "1", 3], "one of 1, 2"),
        (Literal[True, "a"], [True, "a"], [1, 1.0], "one of True, 'a'"),
    ],
)
def test_a_type_may_say_which_of_its_values(hint: Any, good: list[Any], bad: list[Any], wanted: str) -> None:
    for value in good:
        assert fit(value, hint, "it") == (float(value) if "float" in wanted else value)
    for value in bad:
        with pytest.raises(UserError, match=f"it is .*; expected .*{wanted}"):
            fit(value, hint, "it")


def test_what_is_fitted_has_the_declared_type() -> None:
    assert type(fit(2.0, Literal[1, 2], "it")) is int and type(fit(3.0, Count, "it")) is int
    assert type(fit([1.0], Sequence[int], "it")[0]) is int and fit((1,), Sequence[int], "it") == (1,)


ELSEWHERE = ["", ".", "..", "a/b", "/a", "a\\b", "~a", "-a", ".a", "pipe:ls", "http://a", "a*", "a?", "a[1]", "{a,b}"]
ODD = ["a\n", "a\0", "\ud800", "\u202ea", "a" * 201, "ä" * 101, " a", "a;b", "$a", "a|b"]


@pytest.mark.parametrize("name", [*ELSEWHERE, *ODD])
def test_a_name_of_a_file_leads_nowhere_else(name: str) -> None:
    with pytest.raises(UserError, match="that names a file"):
        fit(name, FileName, "it")
    for plain in ("00000.tar", "a b-c_d.e", "größe(1)", "x@y=1,2+3", "a" * 200):
        assert fit(plain, FileName, "it") == plain


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
        "a: 1" + ":1" * 5000,
        "a: !!int '1" + ":1" * 5000 + "'",
    ],
)
def test_hostile_yaml_is_one_line_at_once(text: str) -> None:
    began = time.process_time()
    with pytest.raises(UserError, match="^it (is not YAML|holds too many)") as caught:
        parse_yaml(text, where="it")
    assert "\n" not in str(caught.value) and time.process_time() - began < 5


def test_too_long_a_yaml_is_read_no_further_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSSL_LIMITS", "yaml_values=100")
    assert len(parse_yaml("a: [" + "1," * 96 + "]", where="it")["a"]) == 96
    with pytest.raises(UserError, match="it holds too many values"):
        parse_yaml("a: [" + "1," * 1000 + "}", where="it")  # the brace at its end is no YAML


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


def test_long_yaml_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text("[" + "a," * 2**18 + "]")
    began = time.process_time()
    with pytest.raises(UserError, match=r"has 524,290 bytes; the limit is yaml_bytes=524288"):
        read_yaml(tmp_path / "it.yaml")
    assert time.process_time() - began < 2, "the parser takes a second for every 32 KiB"


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


@dataclass(frozen=True)
class Crop:
    scale: tuple[float, float] = (0.2, 1.0)
    size: Positive = 32

    def __post_init__(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise UserError(f"scale is {list(self.scale)}; expected the smaller first")


@dataclass(kw_only=True)
class Shown:
    flip: float
    crop: Crop = Crop(size=64)
    other: Crop | None = None
    more: list[Crop] = field(default_factory=list)
    drawn: int = field(default=0, init=False)


def test_a_mapping_becomes_a_group_of_options() -> None:
    found = fit({"flip": "5e-1", "crop": {"scale": [0.5, 1]}, "more": [{"size": 8.0}]}, Shown, "view")
    assert found == Shown(flip=0.5, crop=Crop((0.5, 1.0), 32), more=[Crop(size=8)])
    assert type(found.crop.scale) is tuple and type(found.more[0].size) is int
    assert fit(Crop(size=3), Crop, "view") == Crop(size=3) and fit(None, Crop | None, "view") is None
    for value, said in (
        ({"flip": 1, "crop": {"scael": 1}}, "view: crop has no option 'scael'; did you mean 'scale'?"),
        ({"flip": 1, "other": {"scael": 1}}, "view: other has no option 'scael'; did you mean 'scale'?"),
        ({"flip": 1, "more": [{}, {"sise": 1}]}, "view: more.1 has no option 'sise'; did you mean 'size'?"),
        ({"flop": 1}, "view has no option 'flop'; did you mean 'flip'?"),
        ({"flip": 1, "drawn": 1}, "view has no option 'drawn'; known: crop, flip, more, other"),
        ({"crop": {}}, "view: flip is missing; expected float"),
        ({"flip": 1, "crop": {"size": 0}}, "view: crop.size is 0; expected int of at least 1"),
        ({"flip": 1, "crop": 3}, "view: crop is 3; expected a mapping of scale, size"),
        ({"flip": 1, "crop": {"scale": [1, 0]}}, "scale is [1.0, 0.0]; expected the smaller first"),
        ({1: 2}, "view has no option 1; known: crop, flip, more, other"),
    ):
        with pytest.raises(UserError) as caught:
            fit(value, Shown, "view")
        assert str(caught.value) == said
