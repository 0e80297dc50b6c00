"""Emoji: a fifth is held out, variants of one emoji stay together, transparent pixels become white."""

from __future__ import annotations

import importlib
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mmssl.data.shards import Source
from mmssl.names import home


@pytest.fixture(scope="module")
def emoji(script: Callable[[str], ModuleType]) -> Iterator[ModuleType]:
    sys.path.insert(0, str(home("datasets") / "emoji"))
    yield script("emoji")
    sys.path.remove(str(home("datasets") / "emoji"))


@pytest.fixture
def styles(emoji: ModuleType) -> ModuleType:
    return importlib.import_module("styles")


def drawn(styles: ModuleType, style: str, pixels: np.ndarray, seed: int = 0) -> np.ndarray:
    found: np.ndarray = styles.STYLES[style](pixels.astype(np.float32), np.random.default_rng(seed))
    return found


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


def test_validation_and_unseen_names(emoji: ModuleType, folder: Path, tmp_path: Path) -> None:
    """A share of what is not test is kept out of train; names of which no word is in train stand in splits too."""
    table = folder / "pairs.csv"
    lines = [line.replace(",Group,", ",,") for line in table.read_text().splitlines()]
    lines = [line.replace("thing ", f"new{n}word") if n > 70 else line for n, line in enumerate(lines)]
    table.write_text("\n".join(lines))
    out = tmp_path / "a"
    assert emoji.main([str(out), "--source", str(folder), "--validation", "0.25"]) == 0
    kept = {
        path.name: [s["text"] for s in Source(shards=str(path)).samples({"text"})]
        for path in out.iterdir()
        if path.is_dir()
    }
    assert {split: len(names) for split, names in kept.items() if "_" not in split} == {
        "train": 60,
        "val": 20,
        "test": 20,
    }
    assert not {emoji.base(name) for name in kept["train"]} & {emoji.base(n) for n in kept["val"] + kept["test"]}
    for split in ("train", "val", "test"):
        assert (out / f"{split}_names.txt").read_text().splitlines() == kept[split]
    for split in ("val", "test"):
        assert kept[f"{split}_unseen"] == [name for name in kept[split] if name.startswith("new")]
        assert all(kept[f"{split}_{style}"] == kept[split] for style in emoji.STYLES)
    assert emoji.main([str(tmp_path / "b"), "--source", str(folder), "--validation", "1"]) == 2


def test_styles_by_hand(styles: ModuleType) -> None:
    half = np.zeros((28, 28, 3))
    half[:, :14], half[:, 14:] = (0.8, 0.2, 0.2), (0.2, 0.2, 0.8)
    lines = drawn(styles, "outline", half)
    assert lines[:, 12:16].max() == 0 and lines[:, :10].min() == 1 and lines[:, 18:].min() == 1
    grey = drawn(styles, "grey", half)
    np.testing.assert_allclose(
        grey[0, [0, 20]], [[0.299 * 0.8 + 0.701 * 0.2] * 3, [0.114 * 0.8 + 0.886 * 0.2] * 3], atol=1e-6
    )
    large = drawn(styles, "coarse", np.random.default_rng(0).random((28, 28, 3)))
    assert (large.reshape(14, 2, 14, 2, 3) == large[::2, ::2].reshape(14, 1, 14, 1, 3)).all()
    turned = drawn(styles, "hue", half)
    assert turned[0, 0].argmax() != 0 and turned[0, 20].argmax() != 2
    np.testing.assert_allclose(turned.max(axis=2), half.max(axis=2), atol=0.02)
    half[:, 24:] = 1
    false = drawn(styles, "palette", half, seed=1)
    assert len(np.unique(false.reshape(-1, 3), axis=0)) == 3
    assert (false[:, 24:] == 1).all() and np.abs(false[:, :24] - half[:, :24]).max(axis=2).min() > 0.05


def test_redrawn_pictures_lie_elsewhere_over_white(styles: ModuleType) -> None:
    """A black square over white: smaller, and about where it was; no draw is like another."""
    square = np.ones((64, 64, 3), np.float32)
    square[12:52, 12:52] = 0
    found = [styles.redrawn(square, np.random.default_rng(seed)) for seed in range(12)]
    dark = np.array([1 - one.mean() for one in found]) / (1 - square.mean())
    assert 0.45 < dark.min() < 0.75 and 0.75 < dark.max() < 1.1
    centres = np.array([np.argwhere(one[:, :, 0] < 0.5).mean(axis=0) for one in found])
    assert np.abs(centres - 31.5).max() < 5
    assert all(one[0, 0].min() > 0.99 for one in found), "white comes in from outside"
    picture = Image.fromarray((square * 255).astype(np.uint8))
    twice = [np.asarray(styles.styled(picture, "grey", np.random.default_rng(5))) for _ in range(2)]
    assert (twice[0] == twice[1]).all()
