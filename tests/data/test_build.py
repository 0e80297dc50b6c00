"""`shards build` says what became of everything, joins what stands apart, and carries classes over by name."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
from numbered import write_tar
from own_files import png, samples, write_table

from mmssl.cli import main
from mmssl.data import journal
from mmssl.data.index import read_index
from mmssl.data.shards import Source
from mmssl.data.writer import build, build_from, summary
from mmssl.errors import DamagedError, UserError
from mmssl.modalities import image


def reason(data: bytes) -> str:
    """Returns why bytes are no image."""
    with pytest.raises(DamagedError) as told:
        image.decode(data)
    return told.value.reason


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Four whole images in two classes; a class of a broken one, one of unknown files, and much that is hidden."""
    root = tmp_path / "pets"
    files = {f"{name}/{n}.png": png(n) for name in ("ant", "cat") for n in range(2)}
    files |= {"bee/0.jpg": b"no image", "cat/2.png": b"", "dog/1.raw": b"?", "dog/2.raw": b"?", "notes": b"?"}
    files |= {"cat/a.raw": b"?", "labels.xlsx": b"?"}
    files |= {".DS_Store": b"?", "cat/._0.png": b"?", ".ipynb_checkpoints/0.png": png(1), "__MACOSX/cat/0.png": png(1)}
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


NO_PICTURE = reason(b"no image")
SAID = f"""4 samples in 1 shards (cls in 4, json in 4, png in 4)
3 classes
left out 2: {NO_PICTURE} (such as bee/0.jpg; cat/2.png)
passed over: 3 .raw, 1 .xlsx, 4 hidden, 1 without extension
no sample of: bee, dog"""


def test_a_folder_is_accounted_for(pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "build", str(pets), str(tmp_path / "a"), "--workers", "1", "--no-shuffle"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a'}: {SAID}\n"
    assert (read_index(tmp_path / "a") or {})["classes"] == ["ant", "bee", "cat"]
    found = samples(tmp_path / "a", "image", "label", "meta")
    assert [(s["label"], s["meta"]["class"]) for s in found] == [(0, "ant"), (0, "ant"), (2, "cat"), (2, "cat")]
    with pytest.raises(DamagedError, match=r": (bee/0.jpg|cat/2.png)$"):
        build(pets, tmp_path / "b", workers=1, strict=True)


def test_an_interrupted_build_says_the_same(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unbroken = build(pets, tmp_path / "a", workers=1, shard_samples=2)
    write, calls = journal._write_shard, list[Any]()

    def stop(*arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(journal, "_write_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        build(pets, tmp_path / "b", workers=1, shard_samples=2)
    assert len(list((tmp_path / "b").glob("*.tar"))) == 2
    continued = build(pets, tmp_path / "b", workers=1, shard_samples=2)
    assert summary(continued) == summary(unbroken)
    assert f"left out 2: {NO_PICTURE}" in summary(unbroken)
    assert (tmp_path / "a/index.json").read_bytes() == (tmp_path / "b/index.json").read_bytes()


def test_nothing_written_is_no_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(tmp_path / "t.csv", [{"image": f"D:\\x\\{n}.png", "label": "cat"} for n in range(5)])
    assert main(["shards", "build", str(table), str(tmp_path / "a"), "--workers", "1", "--shard-samples", "2"]) == 2
    told = capsys.readouterr().err
    assert "no sample could be written to" in told
    assert "left out 5: a file that cannot be read (such as line" in told
    assert "no sample of: cat" in told
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="no sample could be written .* left out 3: lost"):
        build_from(lost, 3, tmp_path / "b", workers=1)
    with pytest.raises(UserError, match="nothing to write to .*: the source holds no samples"):
        build_from(lost, 0, tmp_path / "b", workers=1)
    assert not (tmp_path / "b").exists()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/1.raw").write_bytes(b"?")
    with pytest.raises(UserError, match="holds nothing to build from; .*; passed over: 1 .raw"):
        build(tmp_path / "odd", tmp_path / "c")


def lost(number: int) -> dict[str, bytes]:
    raise DamagedError("lost", str(number))


def test_clouds_without_a_finite_point_are_told_of(tmp_path: Path) -> None:
    import numpy as np

    for n in range(3):
        np.save(tmp_path / f"{n}.npy", np.full((4, 3), np.nan if n else 1.0))
    index = build(tmp_path, tmp_path.parent / f"{tmp_path.name}-out", workers=1)
    assert index["samples"] == 1
    assert sum(index["damaged"].values()) == 2
    assert "left out 2: " in summary(index)


def test_links_are_followed_and_lead_nowhere_twice(pets: Path, tmp_path: Path) -> None:
    (pets / "fox").symlink_to(pets / "ant", target_is_directory=True)
    (pets / "fox2").symlink_to(pets, target_is_directory=True)
    (pets / "ant/gone.png").symlink_to(pets / "nowhere.png")
    index = build(pets, tmp_path / "a", workers=1)
    assert index["classes"] == ["ant", "bee", "cat", "fox"]
    assert index["damaged"]["a file that cannot be read"] == 2
    assert index["samples"] == 6


def test_a_users_json_keeps_the_class(tmp_path: Path) -> None:
    (tmp_path / "in/cat").mkdir(parents=True)
    (tmp_path / "in/cat/1.png").write_bytes(png(1))
    (tmp_path / "in/cat/1.json").write_text('{"file": "mine", "size": 3}')
    (tmp_path / "in/cat/2.png").write_bytes(png(1))
    (tmp_path / "in/cat/2.json").write_text("[1]")
    build(tmp_path / "in", tmp_path / "a", workers=1, shuffle=False)
    found = [sample["meta"] for sample in samples(tmp_path / "a", "meta")]
    assert found == [{"file": "mine", "size": 3, "class": "cat"}, [1]]


def test_the_json_of_another_set_is_kept_as_it_is(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [{"__key__": "1", "txt": b"one", "json": b'{"size":   3}'}])
    build(str(tmp_path / "0.tar"), tmp_path / "a", workers=1)
    with tarfile.open(tmp_path / "a/00000.tar") as made:
        (member,) = (member for member in made if member.name.endswith(".json"))
        file = made.extractfile(member)
        assert file and file.read() == b'{"size":   3}'


def test_labels_of_other_sets_may_end_in_a_line(tmp_path: Path) -> None:
    first = labelled(tmp_path / "in/a", ["ant"], ["0"])
    second = labelled(tmp_path / "in/b", ["bee", "ant"], ["1\n", "0\n"])
    build([first, second], tmp_path / "out", workers=1)
    assert [s["label"] for s in samples(tmp_path / "out", "label")] == [0, 0, 1]


def tar(path: Path, files: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as out:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def test_what_stands_apart_is_joined(tmp_path: Path) -> None:
    pictures = [(f"{n}.png", png(n)) for n in range(5)]
    words = [(f"{n}.txt", f"text {n}".encode()) for n in range(5)]
    torn = tar(tmp_path / "torn.tar", [*pictures, ("._0.png", b"?"), *reversed(words)])
    with pytest.raises(UserError, match="do not stand together"):
        Source(shards=str(torn)).samples({"image"})
    index = build(torn, tmp_path / "a", workers=1)
    assert index["samples"] == 5
    whole = samples(tmp_path / "a", "image", "text")
    assert [(s["image"].getpixel((0, 0))[0], s["text"]) for s in whole] == [(n, f"text {n}") for n in range(5)]
    twice = tar(tmp_path / "twice.tar", [*pictures, *words, *pictures, *words])
    assert build(twice, tmp_path / "b", workers=1)["samples"] == 10
    assert [s["text"] for s in samples(tmp_path / "b", "image", "text")] == [f"text {n}" for n in range(5)] * 2


def labelled(folder: Path, names: list[str] | None, labels: list[str]) -> str:
    """Writes a set whose texts are the names of the labels, with an index that knows them or without."""
    folder.mkdir(parents=True)
    texts = [names[int(label)] if names and label.isdigit() and int(label) < len(names) else label for label in labels]
    write_tar(
        folder / "0.tar",
        [
            {"__key__": f"{n}", "cls": v.encode(), "txt": t.encode()}
            for n, (v, t) in enumerate(zip(labels, texts, strict=True))
        ],
    )
    if names:
        shards = [{"name": "0.tar", "samples": len(labels)}]
        (folder / "index.json").write_text(json.dumps({"format": "mmssl-shards-1", "classes": names, "shards": shards}))
    return str(folder)


@pytest.mark.parametrize("how", ["list", "glob", "braces"])
def test_classes_of_several_sets_meet_by_name(tmp_path: Path, how: str) -> None:
    first = labelled(tmp_path / "in/a", ["ant", "cat"], ["0", "1"])
    second = labelled(tmp_path / "in/b", ["bee", "cat", "ant"], ["0", "1", "2", "1", "3", "x"])
    source = {"list": [first, second], "glob": f"{tmp_path}/in/*", "braces": f"{tmp_path}/in/{{a,b}}"}[how]
    index = build(source, tmp_path / "out", workers=1)
    names = index["classes"]
    assert names == ["ant", "cat", "bee"]
    assert [(names[s["label"]], s["text"]) for s in samples(tmp_path / "out", "label", "text")] == [
        (name, name) for name in ["ant", "cat", "bee", "cat", "ant", "cat"]
    ]
    assert index["damaged"] == {"a label that is none of its set's classes": 2}


def test_classes_of_one_set_are_carried_over(tmp_path: Path) -> None:
    source = labelled(tmp_path / "a", ["ant", "bee", "cat"], ["2", "0", "2"])
    index = build(source, tmp_path / "b", workers=1)
    assert (index["classes"], index["empty_classes"]) == (["ant", "bee", "cat"], ["bee"])
    assert [s["label"] for s in samples(tmp_path / "b", "label")] == [2, 0, 2]
    assert build(str(tmp_path / "b"), tmp_path / "c", workers=1)["classes"] == index["classes"]


def test_names_and_bare_numbers_do_not_mix(tmp_path: Path) -> None:
    named = labelled(tmp_path / "a", ["ant", "cat"], ["0", "1"])
    bare = labelled(tmp_path / "b", None, ["0", "1"])
    with pytest.raises(
        UserError, match=rf"labels of {bare} are numbers without names, and those of other sets have names"
    ):
        build([named, bare], tmp_path / "out")
    assert "classes" not in build([bare, bare], tmp_path / "numbers", workers=1)
    plain = tmp_path / "c"
    plain.mkdir()
    write_tar(plain / "0.tar", [{"__key__": "1", "txt": b"no label"}])
    assert build([named, str(plain)], tmp_path / "mixed", workers=1)["classes"] == ["ant", "cat"]


def test_samples_that_a_break_cost_are_each_left_out(tmp_path: Path) -> None:
    source = Path(labelled(tmp_path / "a", ["ant"], ["0"] * 30))
    data = (source / "0.tar").read_bytes()
    (source / "0.tar").write_bytes(data[:10_000])
    index = build(str(source), tmp_path / "b", workers=1)
    assert index["samples"] + sum(index["damaged"].values()) == 30
    assert 3 <= index["samples"] <= 5


def test_columns_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    table = write_table(tmp_path / "t.csv", [{"photo": "1.png", "name": "ant"}])
    together = ["--columns", "image=photo", "text=name", "label=name"]
    apart = ["--column", "image=photo", "--column", "text=name", "--column", "label=name"]
    for name, spelt in {"a": together, "b": apart}.items():
        assert main(["shards", "build", str(table), str(tmp_path / name), "--workers", "1", *spelt]) == 0
        assert "cls in 1, json in 1, png in 1, txt in 1" in capsys.readouterr().out
    assert main(["shards", "build", str(table), str(tmp_path / "x"), "--columns", "text"]) == 2
    assert "write each key once, as KEY=COLUMN" in capsys.readouterr().err


def test_what_is_wrong_comes_whole_out_of_another_process() -> None:
    error = pickle.loads(pickle.dumps(DamagedError("lost", "line 3")))
    assert (error.reason, error.detail, str(error)) == ("lost", "line 3", "lost: line 3")


def test_the_broken_one_of_several_files_is_named(tmp_path: Path) -> None:
    for name, data in {"a.png": png(1), "a.json": b"{", "b.png": png(1)}.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    index = build(tmp_path / "in", tmp_path / "out", workers=1)
    assert index["examples"]["damaged json"][0].startswith("a.json, its json: ")


def test_names_of_files_in_another_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latin = [os.fsdecode(name) for name in (b"caf\xe9", b"caf\xe9/\xe9.png", b"caf\xe9/x.\xe9")]
    (tmp_path / "in" / latin[0]).mkdir(parents=True)
    for name in latin[1:]:
        (tmp_path / "in" / name).write_bytes(png(3))
    assert main(["shards", "build", str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "1"]) == 0
    assert "passed over: 1 ." in capsys.readouterr().out
    (found,) = samples(tmp_path / "out", "meta")
    assert found["meta"] == {"file": latin[1], "class": latin[0]}
    assert (read_index(tmp_path / "out") or {})["classes"] == [latin[0]]
