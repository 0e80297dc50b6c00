"""Splits: shares of every class, groups that stay together, lists, folds, and the same again by the same seed."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from numbered import write_tar
from own_files import png, samples, write_table

from mmssl.cli import main
from mmssl.data.split import Known, Split, shared_out
from mmssl.errors import UserError


def known(number: int, label: str = "", **meta: Any) -> Known:
    return Known(f"s{number % 7}/{number}.png", label, meta)


def labels(found: list[int], of: list[Known]) -> Counter[str]:
    return Counter(of[place].label for place in found)


def test_a_share_is_of_every_class_alike_and_of_all() -> None:
    of = [known(n, "common" if n < 200 else f"rare{n % 40}") for n in range(280)]  # 200, and 40 classes of two
    parts = shared_out(of, Split(test=0.2))
    assert sorted([*parts["train"], *parts["test"]]) == list(range(280))
    assert abs(len(parts["test"]) - 56) <= 1
    assert abs(labels(parts["test"], of)["common"] - 40) <= 2
    assert max(count for label, count in labels(parts["test"], of).items() if label != "common") == 1
    assert parts["test"] == sorted(parts["test"]), "in the order in which they came"


def test_the_seed_decides() -> None:
    of = [known(n, str(n % 3)) for n in range(90)]
    first, again, other = (shared_out(of, Split(test=0.3, seed=seed))["test"] for seed in (1, 1, 2))
    assert first == again != other
    assert max(b - a for a, b in itertools.pairwise(first)) > 4, "at random"


@pytest.mark.parametrize("split", [Split(test=0.25, group="who"), Split(folds=4, group="who")])
def test_no_group_stands_on_two_sides_and_parts_are_as_large_as_they_should_be(split: Split) -> None:
    draw = random.Random(0)
    of = [known(n, "ab"[who % 2], who=f"w{who}") for n in range(400) for who in [draw.randrange(40)]]
    parts = shared_out(of, split)
    groups = [{of[place].meta["who"] for place in part} for part in parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 40
    sizes = [len(part) for part in parts.values()]
    assert all(
        abs(size - wanted) <= 12 for size, wanted in zip(sizes, [100] * 4 if split.folds else [300, 100], strict=True)
    )
    whole = labels(list(range(400)), of)
    for part in parts.values():
        assert abs(labels(part, of)["a"] / len(part) - whole["a"] / 400) < 0.06


def test_several_rows_of_one_file_stand_on_one_side_whatever_their_order() -> None:
    of = [Known(f"{n % 30}.png", "", {"file": f"{n % 30}.png"}) for n in range(150)]
    sides = [{of[place].file for place in part} for part in shared_out(of, Split(test=0.2)).values()]
    assert not sides[0] & sides[1] and len(sides[1]) == 6
    assert {of[::-1][place].file for place in shared_out(of[::-1], Split(test=0.2))["test"]} == sides[1]


def test_folds_are_equal_and_have_every_class() -> None:
    of = [known(n, str(n % 5)) for n in range(103)]
    parts = shared_out(of, Split(folds=4))
    assert list(parts) == ["fold0", "fold1", "fold2", "fold3"]
    assert sorted(place for part in parts.values() for place in part) == list(range(103))
    assert {len(part) for part in parts.values()} <= {25, 26, 27}
    assert all(set(labels(part, of).values()) <= {4, 5, 6} for part in parts.values())


def test_by_folder_by_value_and_by_list() -> None:
    of = [known(n, who=n % 2) for n in range(70)]
    parts = shared_out(of, Split(group="folder", test=0.3))
    sides = [{of[place].file.split("/")[0] for place in part} for part in parts.values()]
    assert not sides[0] & sides[1] and [len(side) for side in sides] == [5, 2]
    assert shared_out(of, Split(group="who=1"))["test"] == list(range(1, 70, 2))
    assert shared_out(of, Split(group="folder=s3"))["test"] == list(range(3, 70, 7))
    assert shared_out(of, Split(files=("./s3/3.png", "9.png")))["test"] == [3, 9]
    assert shared_out(of, Split(test=1)) == {"test": list(range(70))}
    without = [known(n, **({"who": 1} if n % 2 else {})) for n in range(20)]
    side = shared_out(without, Split(test=0.5, group="who"))["test"]
    assert len({place % 2 for place in side[:10]}) == 1 and len(side) == 10, "samples without a group stand alone"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": 0}, "--test 0: expected a share above 0"),
        ({"folds": 1}, "--folds 1: expected at least 2"),
        ({"test": 0.2, "folds": 3}, "--test and --folds: give one of them"),
        ({"files": ("a",), "group": "who"}, "--test-list and --test-group: give one of them"),
        ({"group": "whom"}, "no sample has 'whom'; did you mean 'who'"),
        ({"group": "who=7"}, "no sample has who=7"),
        ({"files": ("b.png", "c.png")}, "2 of 2 names are none of the source's files, such as 'b.png'"),
        ({"files": ("0.png",)}, "'0.png' is the name of 2 files; write their folders, too"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    of = [Known("a/0.png", "", {"who": 1}), Known("b/0.png", "", {"who": 2})]
    with pytest.raises(UserError) as caught:
        shared_out(of, Split(**options))
    assert message in str(caught.value)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Ten images in each of two classes, by five owners; one that is no image."""
    root = tmp_path / "pets"
    for number in range(20):
        file = root / ("ant" if number % 2 else "bee") / f"o{number // 4}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number) if number != 3 else b"no image")
    return root


def files(folder: Path) -> list[str]:
    return sorted(sample["meta"]["file"] for sample in samples(folder, "meta"))


def test_a_build_of_splits_from_a_folder_goes_on_and_says_what_it_wrote(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["shards", "build", str(pets), str(tmp_path / "out"), "--workers", "1", "--test", "0.2", "--seed", "7"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'out/train'}: " in said and f"{tmp_path / 'out/test'}: 4 samples" in said
    assert [len(files(tmp_path / "out" / name)) for name in ("train", "test")] == [15, 4]
    classes = [sample["meta"]["class"] for sample in samples(tmp_path / "out/test", "meta")]
    assert sorted(classes) == ["ant", "ant", "bee", "bee"]
    index = json.loads((tmp_path / "out/test/index.json").read_text())
    assert index["classes"] == ["ant", "bee"] and index["split"] == "test: test 0.2, seed 7"
    before = (tmp_path / "out/train/00000.tar").stat().st_mtime_ns
    for file in (tmp_path / "out/test").iterdir():
        file.unlink()
    assert main(command) == 0, "what is finished stays, the rest is made"
    assert (tmp_path / "out/train/00000.tar").stat().st_mtime_ns == before
    assert len(files(tmp_path / "out/test")) == 4
    capsys.readouterr()
    assert main([*command[:-1], "4"]) == 2, "another split does not overwrite it"
    assert "is not empty" in capsys.readouterr().err


def test_a_table_and_other_shards_are_split_by_what_their_json_says(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "speaker": f"s{n % 3}", "label": "ab"[n % 2]} for n in range(12)]
    table = str(write_table(tmp_path / "t.csv", rows))
    assert main(["shards", "build", table, str(tmp_path / "a"), "--workers", "1", "--test-group", "speaker=s1"]) == 0
    assert {s["meta"]["speaker"] for s in samples(tmp_path / "a/test", "meta")} == {"s1"}
    assert len(samples(tmp_path / "a/train", "text")) == 8
    tar = [{"__key__": f"k{n}", "txt": b"t", "json": json.dumps(row).encode()} for n, row in enumerate(rows)]
    (tmp_path / "set").mkdir()
    write_tar(tmp_path / "set/0.tar", tar)
    folds = ["--folds", "3", "--test-group", "speaker", "--workers", "1"]
    assert main(["shards", "build", str(tmp_path / "set"), str(tmp_path / "b"), *folds]) == 0
    held = [{s["meta"]["speaker"] for s in samples(tmp_path / f"b/fold{i}", "meta")} for i in range(3)]
    assert sorted(map(sorted, held)) == [["s0"], ["s1"], ["s2"]]


def test_a_list_of_files(pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test.txt").write_text("ant/o0/1.png\n\n16.png\n")
    command = ["shards", "build", str(pets), str(tmp_path / "out"), "--workers", "1", "--test-list"]
    assert main([*command, str(tmp_path / "test.txt")]) == 0
    assert files(tmp_path / "out/test") == ["ant/o0/1.png", "bee/o4/16.png"]
    (tmp_path / "test.txt").write_text("\n")
    assert main([*command, str(tmp_path / "test.txt")]) == 2
    assert "names no file" in capsys.readouterr().err
