"""The writer's promises: any webdataset reads it, an interrupted build goes on, nothing already there is touched."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import deadly
import pytest
import webdataset
from numbered import number_set, write_tar
from own_files import png, write_table

from mmssl.data import journal
from mmssl.data.shards import Source
from mmssl.data.writer import build, build_from, show, verify
from mmssl.errors import DamagedError, UserError

ROOT = Path(__file__).parents[2]


def make(number: int) -> dict[str, bytes]:
    return {"txt": str(number).encode(), "json": b"{}"}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_killed_build_continues_and_ends_the_same(tmp_path: Path) -> None:
    unbroken = build_from(deadly.make, 300, tmp_path / "unbroken", shard_samples=20, workers=1)
    script = f"""import deadly; from mmssl.data.writer import build_from
build_from(deadly.make, 300, {str(tmp_path / "killed")!r}, shard_samples=20, workers=2)"""
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    given = {**os.environ, "PYTHONPATH": paths, "KILL_AT": "130"}  # in the seventh of fifteen shards
    run = subprocess.run([sys.executable, "-c", script], env=given, stdout=subprocess.PIPE)  # until its workers end too
    assert run.returncode == -signal.SIGKILL
    killed = tmp_path / "killed"
    lines = (killed / "build.journal").read_bytes().split(b"\n")[1:-1]  # whole ones, without what names the build
    noted = [json.loads(line)[1]["name"] for line in lines]
    assert len(noted) >= 3, "the seventh is begun when at most two processes with two shards each are not done"
    done = {name: (killed / name).stat().st_mtime_ns for name in noted}
    with pytest.raises(UserError, match="interrupted build"):
        Source(shards=str(killed))
    with (killed / "build.journal").open("ab") as file:
        file.write(b'[5, {"name": "000')  # a record that the crash cut short
    with pytest.raises(UserError, match="interrupted build of something else"):
        build_from(deadly.make, 301, killed, shard_samples=20, workers=1)
    assert build_from(deadly.make, 300, killed, shard_samples=20, workers=1) == unbroken
    assert content(killed) == content(tmp_path / "unbroken")
    assert done == {name: (killed / name).stat().st_mtime_ns for name in noted}, "what is done is not written again"
    assert unbroken["damaged"] == {"cannot be made": 30}
    assert unbroken["samples"] == sum(shard["samples"] for shard in unbroken["shards"]) == 270
    assert verify(killed) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves files open
def test_plain_webdataset_reads_ours(tmp_path: Path) -> None:
    build_from(make, 25, tmp_path / "a", shard_samples=10, workers=1)
    shards = [str(path) for path in sorted((tmp_path / "a").glob("*.tar"))]
    found = list(webdataset.WebDataset(shards, shardshuffle=False).decode().to_tuple("__key__", "txt", "json"))
    gc.collect()
    assert found == [(f"{n:08d}", str(n), {}) for n in range(25)]
    assert [sample["text"] for sample in Source(shards=str(tmp_path / "a")).samples({"text"})] == [
        t for _, t, _ in found
    ]


def test_folder_that_is_not_empty_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="is not empty"):
        build_from(make, 3, tmp_path, workers=1)
    assert content(tmp_path) == {"mine.txt": b"precious"}
    build_from(make, 3, tmp_path / "a", workers=1)
    before = content(tmp_path / "a")
    with pytest.raises(UserError, match="is not empty"):
        build_from(make, 3, tmp_path / "a", workers=1)
    assert content(tmp_path / "a") == before


def test_no_space_left_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_write = journal._Hashed.write

    def write(self: Any, data: bytes) -> int:
        if len(list(tmp_path.glob("a/*.tar"))) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return true_write(self, data)

    monkeypatch.setattr(journal._Hashed, "write", write)
    with pytest.raises(UserError, match=r"no space left for .*a: 2 shards are finished and stay; run the same command"):
        build_from(make, 40, tmp_path / "a", shard_samples=10, workers=1)
    assert not list(tmp_path.glob("a/*.part"))
    monkeypatch.undo()
    assert build_from(make, 40, tmp_path / "a", shard_samples=10, workers=1)["samples"] == 40


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two classes of three images, one of them damaged, one with a caption; and notes that are no sample."""
    for name in ("dog", "cat"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "pets" / name / f"{i}.v1.png").write_bytes(png(i))
    (tmp_path / "pets/cat/1.v1.png").write_bytes(b"broken")
    (tmp_path / "pets/dog/2.v1.txt").write_text("a good dog")
    (tmp_path / "pets/notes.md").write_text("not a sample")
    return tmp_path / "pets"


def test_folder_of_classes(classes: Path, tmp_path: Path) -> None:
    index = build(classes, tmp_path / "a", workers=1)
    assert index["classes"] == ["cat", "dog"]
    assert index["damaged"] == {"not an image that can be read as JPEG, PNG, WebP, BMP, TIFF or GIF": 1}
    samples = list(Source(shards=str(tmp_path / "a")).samples({"image", "label", "meta", "text"}))
    found = {s["meta"]["file"]: (s["label"], s["meta"]["class"], s.get("text")) for s in samples}
    assert len(samples) == 5
    assert found["dog/2.v1.png"] == (1, "dog", "a good dog")
    assert found["cat/0.v1.png"] == (0, "cat", None)
    assert [s["meta"]["file"] for s in samples] != sorted(found), "classes are mixed"
    with pytest.raises(DamagedError, match="not an image that"):
        build(classes, tmp_path / "b", workers=1, strict=True)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_manifest(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/1.png").write_bytes(png(1))
    (tmp_path / "x/2.png").write_bytes(png(2))
    rows = [
        {"image": "x/1.png", "image_b": "x/2.png", "caption": "one, two", "label": "dog", "year": "1990"},
        {"image": "x/2.png", "image_b": "", "caption": "two", "label": "cat", "year": "2000"},
        {"image": "x/3.png", "image_b": "", "caption": "not there", "label": "cat", "year": "2000"},
    ]
    index = build(write_table(tmp_path / f"t.{kind}", rows), tmp_path / "a", workers=1, shuffle=False)
    assert index["damaged"] == {"a file that cannot be read": 1}
    first, second = Source(shards=str(tmp_path / "a")).samples({"image", "image_b", "text", "label", "meta"})
    assert (first["text"], first["label"], index["classes"]) == ("one, two", 1, ["cat", "dog"])
    assert first["image_b"].getpixel((0, 0)) == (2, 2, 2)
    assert "image_b" not in second
    assert second["meta"] == {"file": "x/2.png", "label": "cat", "class": "cat", "year": "2000"}


def test_manifest_columns(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    table = write_table(tmp_path / "t.csv", [{"photo": "1.png", "title": "hello", "label": "3"}])
    with pytest.raises(UserError, match="columns photo, title, label; expected one of audio, image"):
        build(table, tmp_path / "a", workers=1)
    with pytest.raises(UserError, match="no column 'titel' for 'text'; did you mean 'title'"):
        build(table, tmp_path / "a", columns={"text": "titel"}, workers=1)
    build(table, tmp_path / "a", columns={"text": "title", "image": "photo"}, workers=1)
    sample = next(Source(shards=str(tmp_path / "a")).samples({"image", "text", "label"}))
    assert (sample["text"], sample["label"]) == ("hello", 3)


def test_another_shard_set(tmp_path: Path) -> None:
    source = number_set(tmp_path / "a", [7, 9, 5])
    index = build(source, tmp_path / "b", shard_samples=8, workers=1)
    assert [shard["samples"] for shard in index["shards"]] == [8, 8, 5]
    before, after = (list(Source(shards=s).samples({"text"})) for s in (source, str(tmp_path / "b")))
    assert [(s["__key__"], s["text"]) for s in before] == [(s["__key__"], s["text"]) for s in after]


def test_shards_are_bounded_in_bytes_and_keys_stay_apart(tmp_path: Path) -> None:
    big = [{"__key__": "same" if n < 2 else str(n), "bin": bytes(100_000)} for n in range(6)]
    first = write_tar(tmp_path / "1.tar", big[:1])
    second = write_tar(tmp_path / "2.tar", big[1:])
    build(f"{tmp_path}/{{1,2}}.tar", tmp_path / "a", shard_mb=0.25, workers=1)
    assert max(path.stat().st_size for path in (tmp_path / "a").glob("*.tar")) < 0.25 * 2**20
    assert Source(shards=str(tmp_path / "a")).count == 6
    keys = [entry.key for i in range(3) for entry in Source(shards=str(tmp_path / "a")).entries(i)]
    assert keys == ["same", "same-2", "2", "3", "4", "5"], (first, second)


def test_nothing_to_build(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds nothing to build from"):
        build(tmp_path / "empty", tmp_path / "a")
    with pytest.raises(UserError, match="no shard"):
        build(tmp_path / "missing", tmp_path / "a")
    with pytest.raises(UserError, match="there is no manifest"):
        build(tmp_path / "missing.csv", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_verify_and_show(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    build_from(make, 50, folder, shard_samples=10, workers=1, description="numbers")
    assert verify(folder, decode=True) == []
    told = show(folder)
    assert "50 samples in 5 shards" in told
    assert "fields: json in 50, txt in 50" in told
    assert "numbers" in told
    data = bytearray((folder / "00001.tar").read_bytes())
    data[300] ^= 1
    (folder / "00001.tar").write_bytes(data)
    (folder / "00002.tar").unlink()
    (folder / "00003.tar").write_bytes(b"short")
    write_tar(folder / "other.tar", [{"__key__": "1", "jpg": b"no image"}])
    problems = verify(folder, decode=True)
    assert [problem.split(":")[0] for problem in problems] == [
        "other.tar is not in the index", "00001.tar", "00002.tar", "00003.tar", "other.tar",
    ]  # fmt: skip
    assert "checksum" in problems[1]
    assert "missing" in problems[2]
    assert "5 bytes" in problems[3]
    assert problems[4].startswith("other.tar: 1, jpg: not an ")


def test_two_builds_do_not_mix(tmp_path: Path) -> None:
    """The second is refused while the first writes, whatever it would write, and the first ends as if alone."""
    alone = build_from(make, 6, tmp_path / "alone", shard_samples=2, workers=1)
    seen: list[str] = []

    def meanwhile(number: int) -> dict[str, bytes]:
        for other, count in ((make, 6), (lost, 3)):
            with pytest.raises(UserError) as told:
                build_from(other, count, tmp_path / "a", shard_samples=2, workers=1)
            seen.append(str(told.value))
        return make(number)

    index = build_from(meanwhile, 6, tmp_path / "a", shard_samples=2, workers=1)
    assert {said.partition(" to ")[0] for said in seen} == {"another build is writing"}
    assert index == alone
    assert content(tmp_path / "a") == content(tmp_path / "alone")


def lost(number: int) -> dict[str, bytes]:
    raise DamagedError("lost", str(number))


def test_a_build_that_ended_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal that is locked may be the one that another build has just removed."""
    true_lock = journal._lock

    def late(file: Any, folder: Path) -> None:
        (folder / "build.journal").unlink()
        (folder / "index.json").write_text("{}")
        true_lock(file, folder)

    monkeypatch.setattr(journal, "_lock", late)
    with pytest.raises(UserError, match=r"another build has just ended in .*a; choose another folder"):
        build_from(make, 3, tmp_path / "a", workers=1)
    assert content(tmp_path / "a") == {"index.json": b"{}"}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EIO, errno.EFBIG])
@pytest.mark.parametrize("place", ["first", "middle", "index"])
def test_what_stops_a_build_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, place: str) -> None:
    true_write, left = journal._Hashed.write, {"first": 0, "middle": 2, "index": 4}[place]

    def write(self: Any, data: bytes) -> int:
        if len(list(tmp_path.glob("a/*.tar"))) == left:
            raise OSError(code, os.strerror(code))
        return true_write(self, data)

    def no_index(path: Path, value: Any) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(journal._Hashed, "write", write)
    monkeypatch.setattr(journal, "write_json", no_index)
    with pytest.raises(UserError, match=rf"cannot write to .*a: {os.strerror(code)}: {left} shards are finished and"):
        build_from(make, 40, tmp_path / "a", shard_samples=10, workers=1)
    assert not list(tmp_path.glob("a/*.part"))
    monkeypatch.undo()
    assert build_from(make, 40, tmp_path / "a", shard_samples=10, workers=1)["samples"] == 40
    assert verify(tmp_path / "a") == []


def test_an_error_of_what_is_read_is_not_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.bin"):
        build_from(missing, 3, tmp_path / "a", workers=1)


def missing(number: int) -> dict[str, bytes]:
    return {"bin": Path("/nowhere.bin").read_bytes()}


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"file is a file; choose a folder"):
        build_from(make, 3, tmp_path / "file", workers=1)
    with pytest.raises(UserError, match=r"cannot write to .*file/a: Not a directory: 0 shards"):
        build_from(make, 3, tmp_path / "file/a", workers=1)
    assert (tmp_path / "file").read_text() == "mine"
