"""Which field fills a key where several are named, and what a hint may name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from numbered import write_tar
from own_files import png

from mmssl.data.fields import find
from mmssl.data.shards import Source
from mmssl.errors import UserError


def source(folder: Path, samples: list[dict[str, Any]], **options: Any) -> Source:
    plain = [{"__key__": str(n), **{k: _bytes(v) for k, v in fields.items()}} for n, fields in enumerate(samples)]
    return Source(shards=str(write_tar(folder / "x.tar", plain)), **options)


def _bytes(value: Any) -> bytes:
    return (
        value if isinstance(value, bytes) else json.dumps(value).encode() if isinstance(value, dict) else value.encode()
    )


def test_of_several_fields_the_first_that_is_there_fills_the_key(tmp_path: Path) -> None:
    rows = [
        {"json": {"title": "a", "name": "b"}, "txt": "c"},
        {"json": {"title": None, "name": ["d"]}, "txt": "e"},
        {"json": {"other": 1}, "txt": "f"},
        {"txt": "g"},
        {"json": {"title": "h"}},
    ]
    made = source(tmp_path, rows, fields={"text": ["json.title", "json.name", "txt"]})
    assert [s["text"] for s in made.samples({"text"})] == ["a", ["d"], "f", "g", "h"]
    kept = [made.keep(entry, {"text"}) for entry in made.entries(0)]
    assert [str(made.open(entry, {"text"})["text"]) for entry in kept] == ["a", "['d']", "f", "g", "h"]


def test_of_several_files_only_the_one_that_fills_the_key_is_held(tmp_path: Path) -> None:
    rows = [{"left.png": png(1), "left.jpg": b"no"}, {"left.jpg": png(3)}, {"left.webp": png(4), "left.png": png(2)}]
    made = source(tmp_path, rows, fields={"image": ["left.png", "left.jpg"]})
    assert [s["image"].getpixel((0, 0))[0] for s in made.samples({"image"})] == [1, 3, 2]
    kept = [set(made.keep(entry, {"image"}).fields) for entry in made.entries(0)]
    assert kept == [{"left.png"}, {"left.jpg"}, {"left.png"}]
    assert find("video", {"mpg", "webm"}, {"video": ["mp4", "webm", "mpg"]}) == "webm"


@pytest.mark.parametrize(
    ("fields", "key", "hint"),
    [
        ({}, "image", "its fields are cls, json, txt (keys: label, meta, text); none of them can be image"),
        ({}, "text_b", "(keys: label, meta, text); name the field as in fields: {text_b: txt}"),
        ({"text": "json.naem"}, "text", "has 'json.naem' for 'text'; did you mean 'json.name'?"),
        ({"label": "json.name2"}, "label", "did you mean 'json.name'?"),
        ({"image": "jpg"}, "image", "has 'jpg' for 'image'; its fields are cls, json, txt; none of them can be image"),
        ({"text": "json.size"}, "text", "what is there is no text; did you mean 'json.name'?"),
        ({"text": ["json.size", "caption"]}, "text", "'json.size' or 'caption' for 'text'; what is there is no text"),
    ],
)
def test_a_hint_names_only_what_can_serve(tmp_path: Path, fields: Any, key: str, hint: str) -> None:
    row = {"txt": "a", "cls": "1", "json": {"name": "b", "size": {"w": 1}, "nam": 2}}
    made = source(tmp_path, [row], fields=fields)
    with pytest.raises(UserError) as caught:
        made.check({key})
    assert hint in str(caught.value)


def test_a_film_is_named_for_a_missing_image_in_every_format_there_is(tmp_path: Path) -> None:
    made = source(tmp_path, [{"webm": b"x", "json": {"a": "b"}}, {"mp4": b"x", "json": {"a": "b"}}])
    with pytest.raises(UserError, match=r"name the field as in fields: \{image: \[mp4, webm\]\}$"):
        made.check({"image"})
