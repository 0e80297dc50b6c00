"""Spoken digits: a speaker is held out, every recording meets images of its digit, and the same ones each time."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.data.shards import Source
from mmssl.modalities import audio


@pytest.fixture(scope="module")
def digits(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("spoken_digits")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three speakers say 3 and 7 twice each; of either digit there are five images, as bright as the digit says."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "audio").mkdir()
    for digit in (3, 7):
        for speaker in ("ann", "bob", "cleo"):
            for take in range(2):
                sound = audio.encode(torch.full((800,), digit / 10), sample_rate=8000)
                (folder / f"audio/{digit}_{speaker}_{take}.wav").write_bytes(sound)
        for split in ("train", "test"):
            (folder / f"{split}/{digit}").mkdir(parents=True)
            for n in range(5):
                stream = io.BytesIO()
                Image.fromarray(np.full((28, 28), 20 * digit + n + 5 * (split == "test"), np.uint8)).save(stream, "PNG")
                (folder / f"{split}/{digit}/{n}.png").write_bytes(stream.getvalue())
    for name in ("audio", "train", "test"):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            tar.add(folder / name, arcname=".")
    return folder


def arguments(out: Path, sources: Path, kind: str = "", **options: str) -> list[str]:
    paths = {"audio": "audio", "pictures": "train", "test-pictures": "test"}
    given = {name: str(sources / f"{path}{kind}") for name, path in paths.items()} | options
    return [str(out), *(part for name, value in given.items() for part in (f"--{name}", value))]


def test_splits_and_pairs(digits: ModuleType, sources: Path, tmp_path: Path) -> None:
    assert digits.main(arguments(tmp_path / "a", sources, speaker="bob")) == 0
    keys = {"image", "audio", "meta"}
    train, test = (list(Source(shards=str(tmp_path / "a" / s)).samples(keys)) for s in ("train", "test"))
    assert (len(train), len(test)) == (2 * 2 * 2 * 4, 2 * 2)
    assert {sample["meta"]["speaker"] for sample in train} == {"ann", "cleo"}
    assert {sample["meta"]["speaker"] for sample in test} == {"bob"}
    met: dict[str, set[int]] = {}
    served: Counter[int] = Counter()
    for sample, is_test in [(s, 0) for s in train] + [(s, 1) for s in test]:
        meta, brightness = sample["meta"], sample["image"].convert("RGB").getpixel((0, 0))[0]
        said = float(sample["audio"].read(sample_rate=8000)[400:500].mean())
        assert int(meta["digit"]) == round(said * 10) == brightness // 20
        assert (brightness % 20 >= 5) == bool(is_test), "images of the test set are for test only"
        if not is_test:
            met.setdefault(f"{meta['digit']}{meta['speaker']}{meta['take']}", set()).add(brightness)
            served[brightness] += 1
    assert min(map(len, met.values())) > 1, "a recording meets several images"
    assert max(served.values()) - min(served.values()) <= 1, "images serve equally often"
    assert [s["meta"]["digit"] for s in train] != sorted(s["meta"]["digit"] for s in train)


def test_the_same_from_tars_and_another_pairing_with_another_seed(
    digits: ModuleType, sources: Path, tmp_path: Path
) -> None:
    assert digits.main(arguments(tmp_path / "a", sources, speaker="bob", pairings="1")) == 0
    assert digits.main(arguments(tmp_path / "b", sources, ".tar", speaker="bob", pairings="1")) == 0
    assert digits.main(arguments(tmp_path / "c", sources, speaker="bob", pairings="1", seed="1")) == 0
    shard = [(tmp_path / x / "train/00000.tar").read_bytes() for x in "abc"]
    assert shard[0] == shard[1] != shard[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speaker": "dora"}, "--speaker dora: .* has ann, bob, cleo"),
        ({"pairings": "0"}, "--pairings 0: expected at least 1"),
        ({"audio": "nowhere"}, "nowhere is neither a tar nor a folder"),
        ({"pictures": "audio"}, "has no image of 3, 7"),
        ({"audio": "train"}, "has no digit_speaker_take.wav"),
    ],
)
def test_wrong_sources(
    digits: ModuleType,
    sources: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, str],
    message: str,
) -> None:
    paths = {k: str(sources / v) if (sources / v).exists() else v for k, v in options.items()}
    assert digits.main(arguments(tmp_path / "a", sources, **{"speaker": "bob", **paths})) == 2
    import re

    assert re.search(message, capsys.readouterr().err)


def test_hidden_and_broken_files(
    digits: ModuleType, sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sources, tmp_path / "in")
    (tmp_path / "in/audio/._3_ann_0.wav").write_bytes(b"hidden")
    (tmp_path / "in/audio/readme.txt").write_bytes(b"about")
    (tmp_path / "in/train/3/._0.png").write_bytes(b"hidden")
    (tmp_path / "in/audio/3_ann_0.wav").write_bytes(b"no sound")
    given = arguments(tmp_path / "a", tmp_path / "in", speaker="bob", pairings="1")
    assert digits.main(given) == 0
    told = capsys.readouterr().out
    assert "audio: passed over 1 files that are not digit_speaker_take.wav, such as readme.txt" in told
    assert "train: 7 samples" in told
    assert "left out 1: not a media file that FFmpeg reads" in told
