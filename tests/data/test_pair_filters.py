"""Filters of pairs as shards are built: each by hand, counted over the whole source, and told."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmssl.cli import main
from mmssl.data.index import read_index
from mmssl.data.pair_filters import LONG, SMALL, PairFilters
from mmssl.data.shards import Source
from mmssl.data.writer import build
from mmssl.errors import UserError

SIZES = {"a": (30, 20), "b": (20, 30), "c": (60, 20), "d": (19, 19)}
PAIRS = [
    ("a", "a red ball"), ("a", "one"), ("a", "a ball of red wool there"), ("b", "a red ball"), ("c", "a red ball"),
    ("d", "a Red cube"), ("b", "a red red"),
]  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name, size in SIZES.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *((f"{name}.png", text) for name, text in PAIRS)])
    return tmp_path / "pairs.csv"


def kept(table: Path, **options: Any) -> list[int]:
    """Returns the places of the pairs that are written."""
    out = table.parent / "out"
    build(table, out, filters=PairFilters(**options), shuffle=False, workers=1)
    found = [(s["meta"]["file"][0], s["text"]) for s in Source(shards=str(out)).samples({"text", "meta"})]
    return [PAIRS.index(pair) for pair in found]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"min_side": 20}, [0, 1, 2, 3, 4, 6]),
        ({"max_aspect": 3.0}, [0, 1, 2, 3, 5, 6]),
        ({"max_aspect": 3.1}, [0, 1, 2, 3, 4, 5, 6]),
        ({"max_texts": 2}, [3, 4, 5, 6]),
        ({"max_images": 2}, [1, 2, 5, 6]),
        ({"min_words": 3}, [0, 2, 3, 4, 5, 6]),
        ({"max_words": 3}, [0, 1, 3, 4, 5, 6]),
        ({"frequent": 5}, [0, 3, 4]),  # a 6, red 6, a red 5, ball 4, red ball 3
        ({"min_words": 2, "max_words": 3, "min_side": 20, "max_images": 2}, [6]),
    ],
)
def test_each_filter(table: Path, options: dict[str, Any], left: list[int]) -> None:
    assert kept(table, **options) == left


def test_what_is_left_out_is_told(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = table.parent / "out"
    words = ["--min-side", "20", "--max-aspect", "3", "--max-texts", "9", "--max-images", "9", "--min-words", "2"]
    words += ["--max-words", "5", "--frequent", "100", "--workers", "1", "--no-shuffle"]
    assert main(["shards", "build", str(table), str(out), *words]) == 0
    said = capsys.readouterr().out
    assert f"left out 1: {SMALL} (such as" in said and f"left out 1: {LONG} (such as" in said
    assert "passed over: 1 with a text of fewer words than --min-words, 1 with a text of more words" in said
    index = read_index(out) or {}
    assert index["samples"] == 3 and index["damaged"] == {SMALL: 1, LONG: 1}


def test_of_several_captions_those_that_fail_are_dropped(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    rows = [{"image": "x.png", "text": ["one", "a b c", "d e f g"]}, {"image": "x.png", "text": ["two"]}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build(tmp_path / "pairs.jsonl", tmp_path / "out", filters=PairFilters(min_words=2, max_words=3), workers=1)
    assert [s["text"] for s in Source(shards=str(tmp_path / "out")).samples({"text"})] == [["a b c"]]


def test_texts_in_files_and_in_shards(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    (tmp_path / "in").mkdir()
    for name, text in {"x": "one", "y": "a b c", "z": "d e"}.items():
        (tmp_path / "in" / f"{name}.png").write_bytes(picture.getvalue())
        (tmp_path / "in" / f"{name}.txt").write_text(text)
    build(tmp_path / "in", tmp_path / "first", filters=PairFilters(min_words=2), workers=1)
    build(str(tmp_path / "first"), tmp_path / "second", filters=PairFilters(max_words=2), workers=1)
    found = [sorted(s["text"] for s in Source(shards=str(tmp_path / n)).samples({"text"})) for n in ("first", "second")]
    assert found == [["a b c", "d e"], ["d e"]]


def test_what_is_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sample of .* passes; passed over: 7 with a text of fewer"):
        kept(table, min_words=10)
    with pytest.raises(UserError, match="--max-aspect is 0.5; expected a number of at least 1"):
        PairFilters(max_aspect=0.5)
    with pytest.raises(UserError, match="--strict stops at the first image"):
        build(table, tmp_path / "out", filters=PairFilters(min_side=5), strict=True)
    (tmp_path / "in" / "k").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "k" / "x.png")
    with pytest.raises(UserError, match="there are no texts to filter"):
        build(tmp_path / "in", tmp_path / "out", filters=PairFilters(min_words=2))
