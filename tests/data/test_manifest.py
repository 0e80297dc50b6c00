"""Cells of manifests: what is a text, several texts, a label, a file or nothing, and what is told of the rest."""

from __future__ import annotations

import csv
import datetime
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from own_files import png, samples, write_table

from mmssl.cli import main
from mmssl.data import manifest
from mmssl.data.manifest import parse_columns
from mmssl.data.shards import Source
from mmssl.data.writer import build
from mmssl.errors import DamagedError, UserError
from mmssl.transforms.text import choose

NAN = math.nan
CAPTION = "a caption that is neither text nor a list of texts"
LABEL = "a label that is neither a name nor a whole number"
FILE = "a cell that is not the path of a file"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "x").mkdir()
    for number in range(4):
        (tmp_path / f"x/{number}.png").write_bytes(png(number))
    return tmp_path


def made(home: Path, rows: list[dict[str, Any]], *, kind: str = "jsonl", **options: Any) -> dict[str, Any]:
    return build(write_table(home / f"t.{kind}", rows), home / "out", workers=1, shuffle=False, **options)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_list_of_texts_is_several_captions(home: Path, kind: str) -> None:
    rows = [
        {"image": f"x/{n}.png", "caption": texts} for n, texts in enumerate([["a cat", " two, or\nthree "], ["one"]])
    ]
    made(home, rows, kind=kind)
    found = samples(home / "out", "image", "text")
    assert [sample["text"] for sample in found] == [["a cat", "two, or\nthree"], ["one"]]
    assert {choose(found[0]["text"]) for _ in range(50)} == {"a cat", "two, or\nthree"}


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("nothing", [None, NAN, "", "  ", []])
def test_a_missing_caption_is_none(home: Path, kind: str, nothing: Any) -> None:
    if kind == "csv" and not isinstance(nothing, str | None):
        pytest.skip("a CSV has neither")
    if kind == "parquet" and (nothing == [] or nothing != nothing):
        rows = [{"image": "x/0.png", "caption": nothing}]
    else:
        rows = [{"image": "x/0.png", "caption": nothing}, {"image": "x/1.png", "caption": "here"}]
    index = made(home, rows, kind=kind)
    assert index["samples"] == len(rows)
    assert index["damaged"] == {}
    keys = ["image", "text"] if len(rows) > 1 else ["image"]
    assert "text" not in samples(home / "out", *keys)[0]


@pytest.mark.parametrize("wrong", [5, 2.5, True, {"en": "a cat"}, ["a cat", None], [["a cat"]], [1, 2]])
def test_a_caption_of_another_kind_leaves_its_row_out(home: Path, wrong: Any) -> None:
    rows = [{"image": "x/0.png", "caption": "fine"}, {"image": "x/1.png", "caption": wrong}]
    index = made(home, rows)
    assert (index["samples"], index["damaged"]) == (1, {CAPTION: 1})
    assert index["examples"][CAPTION] == [f"line 2, caption {wrong!r}"]
    assert samples(home / "out", "text") == [{"text": "fine"}]
    with pytest.raises(DamagedError, match="a list of texts: line 2, caption"):
        build(home / "t.jsonl", home / "strict", workers=1, strict=True)
    assert not (home / "strict").exists()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_labels_are_names_or_whole_numbers(home: Path, kind: str) -> None:
    rows = [{"image": f"x/{n}.png", "label": label} for n, label in enumerate([3.0, NAN, None, 12.0])]
    index = made(home, rows, kind=kind)
    assert "classes" not in index
    assert [sample.get("label") for sample in samples(home / "out", "image", "label")] == [3, None, None, 12]


@pytest.mark.parametrize("wrong", [True, 3.5, [1], {"name": "cat"}, math.inf])
def test_a_label_of_another_kind_leaves_its_row_out(home: Path, wrong: Any) -> None:
    for labels, classes in (([4, wrong, 7], None), (["cat", wrong, "ant"], ["ant", "cat"])):
        index = build(
            write_table(home / "t.jsonl", [{"image": f"x/{n}.png", "label": v} for n, v in enumerate(labels)]),
            home / f"out{labels[0]}",
            workers=1,
        )
        assert index["damaged"] == {LABEL: 1}
        assert index["examples"][LABEL] == [f"line 2, label {wrong!r}"]
        assert index.get("classes") == classes, "a wrong label makes no class, and no names of numbers"


HALF = "\ud83d"  # of a pair of surrogates, as JSON that was cut has it


@pytest.mark.parametrize("caption", [f"{HALF} broken emoji", ["whole", HALF]])
def test_text_that_is_not_unicode_leaves_its_row_out(home: Path, caption: Any) -> None:
    index = made(home, [{"image": "x/0.png", "caption": caption}, {"image": "x/1.png", "caption": "whole"}])
    assert index["damaged"] == {"text that is not Unicode": 1}
    assert [sample["text"] for sample in samples(home / "out", "text")] == ["whole"]


def test_metadata_that_is_not_unicode_is_kept_as_json_spells_it(home: Path) -> None:
    made(home, [{"image": "x/0.png", "label": f"b{HALF}", "note": HALF}, {"image": "x/1.png", "label": "a"}])
    assert [s["meta"].get("note") for s in samples(home / "out", "meta")] == [HALF, None]
    assert json.loads((home / "out/index.json").read_bytes())["classes"] == ["a", f"b{HALF}"]


@pytest.mark.parametrize("name", ["x/\0.png", f"x/{HALF}.png"])
def test_a_name_that_no_file_can_have_leaves_its_row_out(home: Path, name: str) -> None:
    index = made(home, [{"image": name}, {"image": "x/1.png"}])
    assert (index["samples"], index["damaged"]) == (1, {"a file that cannot be read": 1})
    assert main(["shards", "build", str(home / "t.jsonl"), str(home / "again"), "--workers", "1"]) == 0


def test_numbers_as_text_stay_numbers(home: Path) -> None:
    rows = [{"image": f"x/{n}.png", "label": label} for n, label in enumerate(["7", "10", "", "-1"])]
    assert "classes" not in made(home, rows, kind="csv")
    assert [sample.get("label") for sample in samples(home / "out", "image", "label")] == [7, 10, None, -1]
    pandas = [{"image": f"x/{n}.png", "label": label} for n, label in enumerate(["7.0", "10.0", "", "0.0"])]
    build(write_table(home / "p.csv", pandas), home / "pandas", workers=1, shuffle=False)
    assert [sample.get("label") for sample in samples(home / "pandas", "image", "label")] == [7, 10, None, 0]


def test_numbers_with_leading_zeros_are_names(home: Path) -> None:
    labels = ["007", "7", "7"]
    index = made(home, [{"image": f"x/{n}.png", "label": label} for n, label in enumerate(labels)])
    assert index["classes"] == ["007", "7"]
    assert [s["meta"]["class"] for s in samples(home / "out", "meta")] == labels
    assert [s["label"] for s in samples(home / "out", "label")] == [0, 1, 1]


def test_names_stand_in_the_json_too(home: Path) -> None:
    index = made(home, [{"image": f"x/{n}.png", "cls": name} for n, name in enumerate(["dog", "ant", "dog"])])
    assert index["classes"] == ["ant", "dog"]
    found = samples(home / "out", "label", "meta")
    assert [(s["label"], s["meta"]) for s in found] == [
        (number, {"file": f"x/{n}.png", "cls": name, "class": name})
        for n, (number, name) in enumerate([(1, "dog"), (0, "ant"), (1, "dog")])
    ]


@pytest.mark.parametrize("wrong", [7, ["x/1.png"], {"path": "x/1.png"}, True])
def test_a_file_of_another_kind_leaves_its_row_out(home: Path, wrong: Any) -> None:
    index = made(home, [{"image": "x/0.png", "caption": "a"}, {"image": wrong, "caption": "b"}])
    assert index["damaged"] == {FILE: 1}
    assert index["examples"][FILE] == [f"line 2, image {wrong!r}"]


def test_rows_with_nothing_left_and_unknown_extensions_are_counted(home: Path) -> None:
    rows = [
        {"image": "x/0.png", "caption": "a", "label": "cat"},
        {"image": "x/1.raw", "caption": "b", "label": "cat"},
        {"image": "x/2.raw", "caption": None, "label": "dog"},
        {"image": None, "caption": NAN, "label": "cat"},
        {"image": "x/sound", "caption": "c", "label": "cat"},
    ]
    index = made(home, rows)
    assert index["damaged"] == {"a row with neither a file nor a caption": 2}
    assert index["passed_over"] == {".raw": 2, "without extension": 1}
    assert index["empty_classes"] == ["dog"]
    assert index["classes"] == ["cat", "dog"]
    assert [sample["text"] for sample in samples(home / "out", "text")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("row", "fault"),
    [("x/1.png,a dog, and more", "more"), ("x/1.png", "fewer"), ('x/1.png,"a dog",,', "more")],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_of_another_length_are_named(home: Path, row: str, fault: str, end: str) -> None:
    (home / "t.csv").write_text(end.join(["image,caption", "x/0.png,fine", row, "x/2.png,too", ""]), newline="")
    index = build(home / "t.csv", home / "out", workers=1, shuffle=False)
    reason = f"a row with {fault} cells than the header"
    assert (index["samples"], index["damaged"], index["examples"]) == (2, {reason: 1}, {reason: ["line 3"]})
    with pytest.raises(DamagedError, match=f"^{reason}: line 3$"):
        build(home / "t.csv", home / "strict", workers=1, strict=True)


def test_one_column_may_fill_two_keys(home: Path) -> None:
    rows = [{"photo": "x/0.png", "name": "dog"}, {"photo": "x/1.png", "name": "ant"}]
    index = made(home, rows, kind="csv", columns=parse_columns(["image=photo", "text=name", "label=name"]))
    assert index["classes"] == ["ant", "dog"]
    assert [(s["text"], s["label"]) for s in samples(home / "out", "text", "label")] == [("dog", 1), ("ant", 0)]


def test_a_second_caption_keeps_its_role(home: Path) -> None:
    (home / "long.txt").write_text("from a file")
    rows = [{"image": "x/0.png", "text": "one", "text_b": "other"}, {"text": "two", "text_b": "long.txt"}]
    rows.append({"text": ["three"], "text_b": ["third", "3"]})
    made(home, rows, columns={"text": "text", "text_b": "text_b"})
    found = [(s["text"], s["text_b"]) for s in samples(home / "out", "text", "text_b")]
    assert found == [("one", "other"), ("two", "from a file"), (["three"], ["third", "3"])]


def test_a_column_that_is_named_for_a_key_leaves_no_room_for_another(home: Path) -> None:
    rows = [{"image": "x/0.png", "name": "chosen", "caption": "another"}]
    made(home, rows, columns={"image": "image", "text": "name"})
    assert [s["text"] for s in samples(home / "out", "text")] == ["chosen"]


@pytest.mark.parametrize("pairs", [["text"], ["text="], ["=a"], ["text=a", "text=b"]])
def test_columns_are_written_as_pairs(pairs: list[str]) -> None:
    with pytest.raises(UserError, match="write each key once, as KEY=COLUMN"):
        parse_columns(pairs)


EXTENSIONS = {
    **dict.fromkeys(("jpg", "png", "webp"), "image"),
    **dict.fromkeys(("wav", "flac"), "audio"),
    **dict.fromkeys(("ply", "npy"), "points"),
    "mp4": "video",
}


@pytest.mark.parametrize("column", [*EXTENSIONS, "PNG", "Image"])
def test_a_column_may_bear_an_extension(tmp_path: Path, column: str) -> None:
    key = EXTENSIONS.get(column.lower(), "image")
    name = "1.png" if key == "image" else f"1.{column}"
    (tmp_path / name).write_bytes(png(1) if key == "image" else file_of(column))
    row = {column: name, "Caption": "words", "json": {"year": 1990}, "Label": 4, "weight": 2}
    build(write_table(tmp_path / "t.jsonl", [row]), tmp_path / "out", workers=1, strict=True)
    (found,) = samples(tmp_path / "out", key, "text", "label", "meta")
    assert key in found
    assert (found["text"], found["label"]) == ("words", 4)
    assert found["meta"] == {"file": name, "year": 1990, "Label": 4, "weight": 2}


def file_of(extension: str) -> bytes:
    import numpy as np

    from mmssl.modalities import audio, points, video

    sound = np.sin(np.arange(1600) / 9).astype(np.float32)
    if extension in ("wav", "flac"):
        return audio.encode(sound, sample_rate=16000, format=extension)
    if extension == "mp4":
        return video.encode(np.zeros((2, 16, 16, 3), np.uint8), fps=2)
    return points.encode(np.random.default_rng(0).random((5, 3)), format=extension)


def test_columns_that_only_sound_like_files_are_told_about_in_json(home: Path) -> None:
    row = {"image": "x/0.png", "image_id": 7, "image_url": "https://a.b/c.jpg", "video_name": "no file", "text_len": 3}
    made(home, [row])
    (found,) = samples(home / "out", "image", "meta")
    others = {name: value for name, value in row.items() if name != "image"}
    assert found["meta"] == {"file": row["image"], **others}


def test_files_of_another_kind_than_their_column(home: Path) -> None:
    (home / "1.wav").write_bytes(file_of("wav"))
    (home / "1.mp4").write_bytes(file_of("mp4"))
    two = {"jpg": "x/0.png", "image": "x/1.png"}
    index = made(home, [{"image": "1.wav"}, {"image": "1.mp4"}, {"audio": "1.mp4"}, two])
    assert index["damaged"] == {"a file of another kind than its column": 2, "two files for one key": 1}
    assert index["samples"] == 1


def test_a_text_file_is_read_and_one_that_is_not_there_is_text(home: Path) -> None:
    (home / "x/1.txt").write_text("read from a file")
    made(home, [{"image": "x/0.png", "caption": "x/1.txt"}, {"image": "x/1.png", "caption": "see notes.txt"}])
    assert [s["text"] for s in samples(home / "out", "text")] == ["read from a file", "see notes.txt"]


def test_dates_become_text_and_bytes_are_refused(home: Path) -> None:
    pytest.importorskip("pyarrow")
    day = datetime.date(2020, 1, 2)
    made(home, [{"image": "x/0.png", "day": day, "share": NAN}], kind="parquet")
    assert samples(home / "out", "meta") == [{"meta": {"file": "x/0.png", "day": "2020-01-02", "share": None}}]
    table = write_table(home / "b.parquet", [{"image": "x/0.png", "raw": b"\x00"}])
    with pytest.raises(UserError, match="left out 1: a cell of bytes, which JSON cannot hold .*row 1"):
        build(table, home / "none", workers=1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_windows_tables(home: Path, encoding: str, end: str, kind: str) -> None:
    rows = [{"image": f"x\\{n}.png", "caption": f"Käfer {n}"} for n in range(2)]
    rows += [{"image": "C:\\Users\\me\\3.png", "caption": "elsewhere"}]
    if kind == "jsonl":
        text = end.join(json.dumps(row, ensure_ascii=False) for row in rows) + end
    else:
        mark = "," if kind == "csv" else "\t"
        text = end.join([mark.join(rows[0]), *(mark.join(row.values()) for row in rows)]) + end
    (home / f"w.{kind}").write_text(text, encoding=encoding, newline="")
    index = build(home / f"w.{kind}", home / "out", workers=1, shuffle=False)
    assert [s["text"] for s in samples(home / "out", "image", "text")] == ["Käfer 0", "Käfer 1"]
    missing = "a file that cannot be read"
    assert index["damaged"] == {missing: 1}
    line = 3 if kind == "jsonl" else 4
    assert index["examples"][missing] == [f"line {line}, C:\\Users\\me\\3.png: No such file or directory"]


def test_a_backslash_may_belong_to_a_name(home: Path) -> None:
    (home / "x\\3.png").write_bytes(png(9))
    made(home, [{"image": "x\\3.png"}])
    assert Source(shards=str(home / "out")).samples({"image"}).__next__()["image"].getpixel((0, 0)) == (9, 9, 9)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252"])
def test_other_encodings_are_named(home: Path, encoding: str) -> None:
    for kind in ("csv", "jsonl"):
        row = '{"image": "x/0.png", "caption": "Käfer"}' if kind == "jsonl" else "image,caption\nx/0.png,Käfer\n"
        (home / f"t.{kind}").write_text(row, encoding=encoding)
        told = (
            "UTF-16, or no text; save it as UTF-8" if "16" in encoding else r"not in UTF-8 \(.* at byte \d+\); save it"
        )
        with pytest.raises(UserError, match=told):
            build(home / f"t.{kind}", home / "out")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no rows"),
        ("image\n", "has no rows"),
        ("image,image\nx/0.png,x/1.png\n", "two columns named 'image'"),
        ("a,b\n1,2\n", "has the columns a, b; expected one of"),
        ("label\n1\n", "has the columns label; expected one of"),
    ],
)
def test_tables_that_hold_no_samples(home: Path, text: str, told: str) -> None:
    (home / "t.csv").write_text(text)
    with pytest.raises(UserError, match=told):
        build(home / "t.csv", home / "out")
    (home / "t.parquet").write_bytes(b"no parquet")
    pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        build(home / "t.parquet", home / "out")


def test_a_table_with_blanks_after_its_commas(home: Path) -> None:
    (home / "t.csv").write_text('image, caption, label\nx/0.png, "one, two", dog\nx/1.png, three, cat\n')
    index = build(home / "t.csv", home / "out", workers=1, shuffle=False)
    assert index["classes"] == ["cat", "dog"]
    assert [s["text"] for s in samples(home / "out", "text")] == ["one, two", "three"]


def test_long_cells_stay_readable(home: Path) -> None:
    with (home / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "caption"], ["x/0.png", "word " * 30_000]])
    with pytest.raises(UserError, match="t.csv cannot be read as csv: field larger than field limit"):
        build(home / "t.csv", home / "out")


@pytest.mark.parametrize("address", ["pipe:touch marker;", "|touch marker;", "http://localhost:1/", "file:x/0"])
@pytest.mark.parametrize("column", ["file", "image", "audio", "text", "json"])
def test_a_cell_is_no_command_and_no_address(
    home: Path, monkeypatch: pytest.MonkeyPatch, column: str, address: str
) -> None:
    monkeypatch.chdir(home)
    name = address + "x" + {"audio": ".wav", "text": ".txt", "json": ".json"}.get(column, ".png")
    index = made(home, [{"image" if column == "file" else "file": "x/1.png"}, {"caption": "x", column: name}])
    lost = 0 if column in ("text", "json") else 1
    assert (index["samples"], sum(index["damaged"].values())) == (2 - lost, lost)
    assert [s["image"].size for s in samples(home / "out", "image")] == [(6, 6)]
    assert not (home / "marker").exists()


def test_files_may_lie_anywhere(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "pipe:x.png"
    other.write_bytes(png(3))
    (home / "in").mkdir()
    table = write_table(home / "in/t.csv", [{"image": str(other)}, {"image": "../x/1.png"}])
    build(table, home / "out", workers=1, shuffle=False)
    assert [s["image"].getpixel((0, 0))[0] for s in samples(home / "out", "image")] == [3, 1]


@pytest.mark.parametrize("text", ["x" * 5000, "x" * 300 + ".txt", "a\0b.txt", '{"a": "' + "b" * 400 + '"}'])
@pytest.mark.parametrize("column", ["text", "json"])
def test_long_cells_are_no_paths(home: Path, text: str, column: str) -> None:
    made(home, [{"image": "x/1.png", column: text}])
    (sample,) = samples(home / "out", "text" if column == "text" else "meta")
    assert (sample["text"] if column == "text" else sample["meta"]["json"]) == text


@pytest.mark.parametrize("label", [10**30, 1e300, "9" * 400, "9" * 4000])
def test_numbers_that_no_int64_holds_are_names(home: Path, label: Any) -> None:
    index = made(home, [{"text": "a", "label": label}, {"text": "b", "label": 1}])
    assert len(index["classes"]) == 2
    assert [s["label"] for s in samples(home / "out", "label")] == [
        index["classes"].index("1") ^ 1,
        index["classes"].index("1"),
    ]


def test_cells_too_deep_leave_their_row_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dumps(value: Any, **options: Any) -> str:  # how deep a Python can write differs
        if "deep" in value:
            raise RecursionError
        return json.dumps(value, **options)

    monkeypatch.setattr(manifest, "json", SimpleNamespace(dumps=dumps))
    index = made(home, [{"text": "a", "x": 1}, {"text": "b", "deep": [[1]]}])
    assert (index["samples"], index["damaged"]) == (1, {"values nested too deep": 1})


def test_a_line_that_is_too_deep_is_named(home: Path) -> None:
    (home / "t.jsonl").write_text('{"text": "a"}\n{"x": ' + "[" * 10**5 + "]" * 10**5 + "}\n")
    with pytest.raises(UserError, match="line 2: expected one JSON object per line"):
        build(home / "t.jsonl", home / "out", workers=1)


def test_a_parquet_of_many_equal_cells(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    nothing = pa.table({"text": pa.nulls(10**6, pa.string())})
    pytest.importorskip("pyarrow.parquet").write_table(nothing, home / "t.parquet")
    assert (home / "t.parquet").stat().st_size < 10_000
    monkeypatch.setenv("MMSSL_LIMITS", "manifest_cells=999999")
    with pytest.raises(UserError, match=r"t.parquet has 1,000,000 cells; the limit is manifest_cells=999999"):
        build(home / "t.parquet", home / "out", workers=1)


@pytest.mark.parametrize("column", ["title", "name", "Description", "caption"])
def test_a_column_of_words_is_text(home: Path, column: str) -> None:
    made(home, [{"image": "x/0.png", column: "a sofa"}])
    assert samples(home / "out", "text") == [{"text": "a sofa"}]


def test_of_several_columns_of_words_one_is_text_and_file_names_are_none(home: Path) -> None:
    row = {"image": "x/0.png", "name": "x/1.png", "title": "a chair", "description": "wooden"}
    made(home, [row])
    assert samples(home / "out", "text", "meta") == [
        {"text": "a chair", "meta": {"file": "x/0.png", "name": "x/1.png", "description": "wooden"}}
    ]


def test_a_column_of_labels_may_be_text_too(home: Path) -> None:
    made(
        home,
        [{"image": f"x/{n}.png", "label": kind} for n, kind in enumerate(["dog", "ant"])],
        columns={"text": "label"},
    )
    assert [(s["text"], s["label"]) for s in samples(home / "out", "text", "label")] == [("dog", 1), ("ant", 0)]


def test_words_beside_files_that_no_column_name_tells_are_refused(home: Path) -> None:
    with pytest.raises(UserError, match=r"which is which with columns \(photo names files\)"):
        made(home, [{"photo": "x/0.png", "title": "a sofa"}])
