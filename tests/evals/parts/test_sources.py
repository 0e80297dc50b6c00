"""Shards of an evaluation: names of classes, where they come from, and what can be peek_classes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from named import bare, png, tar

from mmssl.data.shards import Source
from mmssl.data.subset import Subset
from mmssl.errors import DamagedError, UserError
from mmssl.evals.parts import source as sources
from mmssl.evals.parts.report import reporting
from mmssl.evals.parts.source import check_shared_classes, open_source, peek_classes, require_fields, warn_of_overlap

ABC = ["ant", "bee", "cat"]


def labels(node: dict[str, Any]) -> list[Any]:
    return [sample["label"] for sample in open_source(node).samples({"label"})]


def test_options_of_the_node_are_those_of_a_source(tmp_path: Path) -> None:
    node = bare(tmp_path, ABC, ABC)
    assert open_source({**node, "fields": {"label": "cls"}}).fields == {"label": "cls"}
    with pytest.raises(UserError, match=r"data.*'shard'.*did you mean 'shards'"):
        open_source({"shard": "x"})


def test_only_what_is_read_from_cls_is_named(tmp_path: Path) -> None:
    samples = [{"png": png("ant", 0), "cls": 1, "other.cls": 0, "txt": "a"}]
    node = tar(tmp_path, samples, classes=["ant", " bee "])
    (sample,) = open_source({**node, "fields": {"kind": "cls", "label": "txt"}}).samples({"kind", "label", "other"})
    assert (sample["kind"], sample["label"], sample["other"]) == ("bee", "a", 0)


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"class": " bee "}, "bee"),
        ({"class": "7"}, 7),
        ({"class": "07"}, "07"),
        ({"class": " "}, 2),
        ({"class": 5}, 2),
        ({"kind": "bee"}, 2),
        (["bee"], 2),
    ],
)
def test_a_samples_json_may_name_its_class(meta: Any, expected: Any, tmp_path: Path) -> None:
    assert labels(tar(tmp_path, [{"cls": 2, "json": meta}])) == [expected]


def test_broken_json_names_nothing(tmp_path: Path) -> None:
    assert labels(tar(tmp_path, [{"cls": 2, "json": b"{"}])) == [2]


def test_numbers_that_the_index_does_not_list_are_damaged(tmp_path: Path) -> None:
    node = tar(tmp_path, ({"cls": n} for n in (0, 2, -1, 1)), classes=["a", "b"])
    with reporting() as report:
        assert labels(node) == ["a", "b"]
    assert report.left_out == {
        (node["shards"], "002", 1): "a class that index.json does not list",
        (node["shards"], "003", 2): "a class that index.json does not list",
    }


def test_parts_of_a_shard_are_read_and_lost_ones_have_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(bare(tmp_path, ABC * 3, ABC))
    assert [entry.number for entry in source.entries(0, start=2, stop=7, step=2)] == [2, 4, 6]
    assert [entry.number for entry in source.entries(0, start=7)] == [7, 8]
    real = list(source.entries(0))
    lost = [replace(real[0], number=9), *(replace(real[1], key="", number=-1) for _ in range(2))]
    monkeypatch.setattr(Source, "entries", lambda self, shard, **cut: iter(lost))
    assert [entry.number for entry in source.entries(0)] == [9, 1, 2]


def test_damage_is_counted_by_the_source_and_reported(tmp_path: Path) -> None:
    source = open_source(bare(tmp_path, ABC, ABC))
    entry = replace(next(source.entries(0)), number=5)
    with reporting() as report:
        source.skip(entry, DamagedError("cut off", "at 3"))
    assert report.left_out == {(source.shards[0], "001", 5): "cut off"}
    assert source.damaged == {("cut off", source.shards[0]): 1}


def test_needs_say_which_set_lacks_it(tmp_path: Path) -> None:
    source = open_source(bare(tmp_path, ABC, ABC))
    require_fields(source, ("image", "label"))
    with pytest.raises(UserError, match=r"^data: no sample"):
        require_fields(source, ("audio",))
    with pytest.raises(UserError, match=r"^train: no sample"):
        require_fields(source, ("audio",), where="train")


def test_classes_are_foreseen_from_the_index_or_a_few_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = open_source(bare(tmp_path / "a", ["ant"], ABC, classes=ABC))
    assert peek_classes(listed, "label") == (ABC, True)
    assert peek_classes(Subset(listed, [0]), "label") == (ABC, True)
    plain = open_source(bare(tmp_path / "b", ABC * 20, ABC))
    assert peek_classes(plain, "label") == ([0, 1, 2] * 10 + [0, 1], False)
    monkeypatch.setattr(sources, "PEEK", 2)
    assert peek_classes(plain, "label") == ([0, 1], False)
    both = open_source({"shards": [listed.shards[0], plain.shards[0]]})
    assert peek_classes(both, "label") == (["ant"], False), "one of the folders lists none"
    other = open_source({**bare(tmp_path / "c", ["bee"], ABC, classes=ABC), "fields": {"label": "cls"}})
    assert peek_classes(other, "label") == (ABC, True)
    texts = tar(tmp_path / "d", ({"cls": 0, "txt": name} for name in ("x", " ", "z")), classes=ABC)
    assert peek_classes(open_source({**texts, "fields": {"label": "txt"}}), "label") == (["x"], False)
    assert peek_classes(Source(**bare(tmp_path / "e", ["bee"], ABC, classes=ABC)), "label") == ([1], False)


def test_sides_that_cannot_meet_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, asked = (open_source(bare(tmp_path / side, ["ant"], ABC)) for side in "ab")
    sides: dict[int, Any] = {}
    monkeypatch.setattr(sources, "peek_classes", lambda source, label: sides[id(source)])
    names: dict[str, Any] = {"where": "the test set", "known_as": "the training set"}
    for mine, theirs, refused in (
        ((["a", "b"], True), (["b", "c"], True), False),
        ((["a", "b"], True), (["c"], True), True),
        ((["a", "b"], True), (["c"], False), False),  # there may be more
        ((["a", "b"], False), (["c"], True), False),
        (([1], False), (["c"], False), True),  # names and numbers never meet
        ((["c", 1], False), (["c"], False), False),
        (([], False), (["c"], True), False),
        ((["c"], True), ([], False), False),
    ):
        sides[id(known)], sides[id(asked)] = mine, theirs
        if refused:
            with pytest.raises(UserError, match="the test set has none of the classes of the training set: "):
                check_shared_classes(known, asked, "label", **names)
        else:
            check_shared_classes(known, asked, "label", **names)
    sides[id(asked)] = (["c"], True)
    check_shared_classes(["b", "c"], asked, "label", **names)
    with pytest.raises(UserError, match="the test set has none of .*: c against a, b"):
        check_shared_classes(["a", "b"], asked, "label", **names)
    sides[id(asked)] = ([0, 1], False)
    with reporting():
        check_shared_classes(["a", "b"], asked, "label", **names)  # numbers are places in a list


def test_shards_that_are_learnt_from_and_judged_on_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [bare(tmp_path / name, ["ant"], ABC)["shards"] for name in "abc"]
    monkeypatch.chdir(tmp_path)
    with reporting() as report:
        warn_of_overlap(open_source({"shards": nodes[:1]}), open_source({"shards": nodes[1:]}))
    assert not report.warnings
    with reporting() as report:
        warn_of_overlap(open_source({"shards": nodes[:2]}), open_source({"shards": ["b/0.tar", "c/0.tar"]}))
    assert list(report.warnings) == ["1 of the 2 shards that are judged on are learnt from as well"]


def test_folders_without_a_list_have_no_names(tmp_path: Path) -> None:
    listed = bare(tmp_path / "a", ["ant"], ABC, classes=["3", "1", "2"])
    empty = bare(tmp_path / "b", ["ant"], ABC, classes=[])
    both = open_source({"shards": [listed["shards"], empty["shards"]]})
    assert both.classes == {str(tmp_path / "a"): [3, 1, 2]}  # type: ignore[attr-defined]
    remote = open_source({"shards": f"pipe:cat {listed['shards']}"})
    assert remote.classes == {} and json.loads((tmp_path / "a" / "index.json").read_text())["classes"]  # type: ignore[attr-defined]


def test_a_folder_of_own_files_has_its_folders_for_classes(tmp_path: Path) -> None:
    for place in ("bee/b.png", "ant/a.png", "bee/c.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(png("ant", 1))
    (tmp_path / "ant" / "broken.png").write_bytes(b"\x89PNG")
    node: dict[str, Any] = {"shards": str(tmp_path)}
    with reporting() as report:
        found = [(s["__key__"], s["label"]) for s in open_source(node).samples({"image", "label"})]
    assert found == [("ant/a.png", "ant"), ("bee/b.png", "bee"), ("bee/c.png", "bee")]
    assert [key for _, key, _ in report.left_out] == ["ant/broken.png"]
    assert labels({**node, "fields": {"label": "json.file"}})[0] == "ant/a.png"
    with pytest.raises(UserError, match="bee has nothing for 'label'; it holds image, meta"):
        labels({"shards": str(tmp_path / "bee")})


def test_a_table_names_its_classes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("ant", 1))
    (tmp_path / "t.csv").write_text("file,label,part\na.png,bee,wing\na.png,ant,leg\n")
    assert labels({"shards": str(tmp_path / "t.csv")}) == ["bee", "ant"]
    assert labels({"shards": str(tmp_path / "t.csv"), "fields": {"label": "json.part"}}) == ["wing", "leg"]
    (tmp_path / "n.csv").write_text("file,label\na.png,7\na.png,3\n")
    assert labels({"shards": str(tmp_path / "n.csv")}) == [7, 3]
