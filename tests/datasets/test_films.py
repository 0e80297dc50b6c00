"""Videos: copied as they are, with what lies beside them; what does not open is left out and counted."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mmssl.data.index import read_index
from mmssl.data.shards import Source
from mmssl.errors import DamagedError
from mmssl.modalities import video

ALIGN = "0 23750 sil\n23750 29500 bin\n29500 34000 blue\n34000 35000 sp\n35000 74500 sil\n"


@pytest.fixture(scope="module")
def films(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("films")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos, one with words, one with its own JSON, rows for some; one silent, one no video at all."""
    source = tmp_path_factory.mktemp("films")
    pictures = np.zeros((5, 16, 16, 3), np.uint8)
    sounding = video.encode(pictures, fps=5, audio=np.zeros(8000, np.float32), sample_rate=8000)
    for n in range(8):
        (source / f"s{n % 2}-film.{n}.mp4").write_bytes(sounding + bytes(n))
    (source / "s0-mute.mp4").write_bytes(video.encode(pictures, fps=5))
    (source / "s1-garbled.mp4").write_bytes(b"no video")
    (source / "._s0-film.0.mp4").write_bytes(b"hidden")
    (source / "._clips.csv").write_bytes(b"\xff\x00hidden")
    (source / "s0-film.0.align").write_text(ALIGN)
    (source / "s1-film.1.json").write_text(json.dumps({"place": "attic"}))
    rows = ["file,fold,seconds", "s0-film.2.mp4,test,1.5", "s1-film.3.mp4,train,", "s0-film.4.mp4,test,1"]
    (source / "clips.csv").write_text("\n".join(rows))
    return source


def read(out: Path) -> dict[str, dict[str, dict[str, object]]]:
    return {
        split: {s["meta"]["name"]: s for s in Source(shards=str(out / split)).samples({"video", "audio", "meta"})}
        for split in ("train", "test")
        if (out / split).exists()
    }


def test_films_are_copied_with_what_lies_beside_them(
    films: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(folder, arcname=".")
    assert films.main([str(tmp_path / "a"), "--source", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "left out 1: no sound track (such as sample 4, s0-mute.mp4)" in told
    assert "left out 1: not a media file that FFmpeg reads" in told
    assert films.main([str(tmp_path / "b"), "--source", str(tmp_path / "in.tar")]) == 0
    found = read(tmp_path / "a")
    assert not set(found["train"]) & set(found["test"])
    every = found["train"] | found["test"]
    assert len(every) == 8
    assert sum(map(len, found.values())) == 8
    for name, sample in every.items():
        assert sample["video"].data == (folder / f"{name}.mp4").read_bytes()  # type: ignore[attr-defined]
    about = {name: sample["meta"] for name, sample in every.items()}
    assert about["s0-film.0"] == {
        "name": "s0-film.0",
        "file": "s0-film.0.mp4",
        "words": [{"word": "bin", "start": 0.95, "end": 1.18}, {"word": "blue", "start": 1.18, "end": 1.36}],
        "text": "bin blue",
    }
    assert about["s1-film.1"] == {"name": "s1-film.1", "file": "s1-film.1.mp4", "place": "attic"}
    assert about["s0-film.2"] == {"name": "s0-film.2", "file": "s0-film.2.mp4", "fold": "test", "seconds": 1.5}
    assert about["s1-film.3"] == {"name": "s1-film.3", "file": "s1-film.3.mp4", "fold": "train"}
    left_out: dict[str, int] = {}
    for split in ("train", "test"):
        left_out |= (read_index(tmp_path / "a" / split) or {})["damaged"]
    assert sum(left_out.values()) == 2
    assert "no sound track" in left_out
    shards = [[(tmp_path / x / s / "00000.tar").read_bytes() for s in ("train", "test")] for x in "ab"]
    assert shards[0] == shards[1], "from a tar or a folder, the shards are the same"


def test_small_silent_copies(
    films: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 40 x 58 pixels at 24 a second: shorter side 20, every second image; the longer side is cut to be even."""
    source = tmp_path / "in"
    source.mkdir()
    pictures = np.repeat(np.arange(24, dtype=np.uint8) * 10, 40 * 58 * 3).reshape(24, 40, 58, 3)
    (source / "mute.mp4").write_bytes(video.encode(pictures, fps=24, quality=4))
    (source / "garbled.mp4").write_bytes(b"no video")
    assert films.main([str(tmp_path / "a"), "--source", str(source), "--side", "20", "--test", "1"]) == 0
    assert "left out 1: not a media file" in capsys.readouterr().out
    (clip,) = [s["video"] for s in Source(shards=str(tmp_path / "a" / "test")).samples({"video"})]
    assert (clip.size, clip.fps, clip.duration) == ((28, 20), 12.0, 1.0)
    seen = clip.frames([(i + 0.5) / 12 for i in range(12)]).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(seen, np.arange(1, 24, 2) * 10, atol=4)
    assert films.main([str(tmp_path / "b"), "--source", str(source), "--side", "15"]) == 2
    assert "--side 15: expected at least 16 pixels" in capsys.readouterr().err


def test_who_is_held_out(films: ModuleType, folder: Path, tmp_path: Path) -> None:
    ways = {
        "hash": ["--test", "0.3"],
        "seed": ["--test", "0.3", "--seed", "1"],
        "prefix": ["--test-prefix", "s1", "zz"],
        "list": ["--test-list", str(tmp_path / "list.txt")],
        "only": ["--test", "1"],
        "column": ["--test-group", "fold=test"],
    }
    (tmp_path / "list.txt").write_text("s0-film.2.mp4\n")
    test = {}
    for name, options in ways.items():
        assert films.main([str(tmp_path / name), "--source", str(folder), *options]) == 0
        test[name] = set(read(tmp_path / name)["test"])
    assert test["prefix"] == {f"s1-film.{n}" for n in (1, 3, 5, 7)}
    assert test["column"] == {"s0-film.2", "s0-film.4"}
    assert test["list"] == {"s0-film.2"} and len(test["only"]) == 8
    assert test["hash"] != test["seed"]
    assert 1 <= len(test["hash"]) <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test", "1.5"], "--test 1.5: expected a share above 0"),
        (["--test-prefix", "zz"], "none of the 10 videos begins with zz"),
        (["--test-prefix", "s1", "--test", "0.5"], "give one of them"),
        (["--test-group", "part=test"], "no sample has 'part'"),
        (["--test-group", "fold=both"], "no sample has fold=both"),
    ],
)
def test_wrong_splits(
    films: ModuleType,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert films.main([str(tmp_path / "a"), "--source", str(folder), *options]) == 2
    assert message in capsys.readouterr().err


def test_wrong_sources(films: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert films.main([str(tmp_path / "a"), "--source", str(tmp_path)]) == 2
    assert "holds no video" in capsys.readouterr().err
    assert films.main([str(tmp_path / "a"), "--source", str(tmp_path / "none")]) == 2
    assert "neither a tar nor a folder" in capsys.readouterr().err
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "b.mp4").write_bytes(b"")
    (tmp_path / "b.align").write_text("0 sil")
    assert films.main([str(tmp_path / "out"), "--source", str(tmp_path), "--test", "0.5"]) == 2
    assert "no sample could be written to" in capsys.readouterr().err
    assert not (tmp_path / "out/train").exists()


def test_subtitles_of_both_kinds(films: ModuleType) -> None:
    srt = "1\n00:00:01,500 --> 00:00:02,000\nThe <i>door</i>,\nopened\n\n2\n01:01:00,250 --> 01:01:02,000\nBye"
    said = [{"text": "The door, opened", "start": 1.5, "end": 2.0}, {"text": "Bye", "start": 3660.25, "end": 3662.0}]
    assert films.subtitles(srt) == films.subtitles(srt.replace("\n", "\r\n")) == said
    vtt = "WEBVTT\n\nNOTE none\n\nhall\n00:01.500 --> 00:02.000 align:start\nThe door,\nopened\n\n00:03.0 --> 00:04.0\n"
    assert films.subtitles(vtt) == said[:1]
    with pytest.raises(DamagedError, match="without a line that has times"):
        films.subtitles("WEBVTT\n\nno times")


def test_subtitles_lie_beside_a_film(films: ModuleType, tmp_path: Path) -> None:
    for name, said in (
        ("a.srt", "1\n00:00:00,100 --> 00:00:00,300\nOne\n"),
        ("b.vtt", "WEBVTT\n\n00:00.100 --> 00:00.300\nTwo\n"),
    ):
        (tmp_path / name).write_text(said)
        (tmp_path / name).with_suffix(".mp4").write_bytes(b"")
    folder = films.Films(str(tmp_path))
    for name, text in (("a.mp4", "One"), ("b.mp4", "Two")):
        about = folder.about(name)
        assert about["subtitles"] == [{"text": text, "start": 0.1, "end": 0.3}] and about["text"] == text
