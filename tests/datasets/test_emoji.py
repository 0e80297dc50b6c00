"""Emoji: a fifth is held out, variants of one emoji stay together, transparent pixels become white."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from mmssl.data.shards import Source


@pytest.fixture(scope="module")
def emoji(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("emoji")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A hundred emoji, transparent but for a red dot; thirty are three variants each of ten."""
    names = [f"{who} juggling {n}" for n in range(10) for who in ("Man", "woman", "person")]
    names += [f"thing {n}" for n in range(70)]
    (tmp_path / "in/noto").mkdir(parents=True)
    lines = ["file,name,keywords,group,subgroup"]
    for n, name in enumerate(names):
        picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        picture.putpixel((3, 3), (255, 0, 0, 255))
        picture.save(tmp_path / f"in/noto/{n}.png")
        lines.append(f"noto/{n}.png,{name},fun|{name.split()[0].lower()},Group,")
    (tmp_path / "in/pairs.csv").write_text("\n".join(lines))
    return tmp_path / "in"


def test_splits(emoji: ModuleType, folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(folder, arcname=".")
    assert emoji.main([str(tmp_path / "a"), "--source", str(tmp_path / "in.tar")]) == 0
    assert emoji.main([str(tmp_path / "b"), "--source", str(folder)]) == 0
    sets = {
        s: list(Source(shards=str(tmp_path / "a" / s)).samples({"image", "text", "meta"})) for s in ("train", "test")
    }
    assert [len(samples) for samples in sets.values()] == [80, 20]
    train, test = ({emoji.base(sample["text"]) for sample in samples} for samples in sets.values())
    assert not train & test
    sample = sets["test"][0]
    assert sample["image"].convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert sample["image"].convert("RGB").getpixel((3, 3)) == (255, 0, 0)
    assert sample["meta"]["captions"][:2] == [sample["text"], f"{sample['text']}, fun"]
    same = [(tmp_path / x / "test/00000.tar").read_bytes() for x in "ab"]
    assert same[0] == same[1], "from a tar or a folder, the shards are the same"


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("Woman running: facing right", "person running"),
        ("men holding hands", "person holding hands"),
        ("medium-light skin tone", "skin tone"),
        ("human", "human"),
    ],
)
def test_base(emoji: ModuleType, name: str, base: str) -> None:
    assert emoji.base(name) == base


def test_wrong_source(emoji: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert emoji.main([str(tmp_path / "a"), "--source", str(tmp_path)]) == 2
    assert "has no pairs.csv" in capsys.readouterr().err
    assert emoji.main([str(tmp_path / "a"), "--source", str(tmp_path / "none.tar")]) == 2
    assert "neither a tar nor a folder" in capsys.readouterr().err


def test_hidden_and_broken_pictures(
    emoji: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "noto/._0.png").write_bytes(b"hidden")
    (folder / "noto/99.png").write_bytes(b"no image")
    (folder / "noto/98.png").unlink()
    assert emoji.main([str(tmp_path / "a"), "--source", str(folder)]) == 0
    told = capsys.readouterr().out
    assert told.count("left out 1: ") == 2
    assert "an image that is not there (such as sample" in told
    with (folder / "pairs.csv").open("a") as file:
        file.write("\nnoto/1.png,short")
    assert emoji.main([str(tmp_path / "b"), "--source", str(folder)]) == 2
    assert "row 101 of pairs.csv has more or fewer cells than the header" in capsys.readouterr().err
