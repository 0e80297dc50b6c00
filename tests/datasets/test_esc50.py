"""ESC-50's layout: folds become splits, sounds are written at the rate, ESC-10 is a choice of classes."""

from __future__ import annotations

import math
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mmssl.data.shards import Source
from mmssl.modalities import audio

CLASSES = (("dog", "True"), ("rain", "True"), ("clock", "False"))


@pytest.fixture(scope="module")
def esc50(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("esc50")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes, two folds, one sound of a quarter of a second each: a tone of 400, 800 or 1200 Hz at 32 kHz."""
    home = tmp_path / "in/ESC-50-master"
    for name in ("audio", "meta"):
        (home / name).mkdir(parents=True)
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for number, (name, small) in enumerate(CLASSES):
        tone = 0.5 * torch.sin(torch.arange(8000) * 2 * math.pi * 400 * (number + 1) / 32_000)
        for fold in (1, 2):
            file = f"{fold}-{number}-A-{number}.wav"
            (home / "audio" / file).write_bytes(audio.encode(tone, sample_rate=32_000))
            lines.append(f"{file},{fold},{number},{name},{small},{number},A")
    (home / "meta/esc50.csv").write_text("\n".join(lines))
    return tmp_path / "in"


def test_folds(esc50: ModuleType, folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(folder, arcname=".")
    assert esc50.main([str(tmp_path / "a"), "--source", str(tmp_path / "in.tar"), "--rate", "8000"]) == 0
    for fold in (1, 2):
        samples = list(Source(shards=str(tmp_path / f"a/fold{fold}")).samples({"audio", "meta"}))
        assert [sample["meta"]["category"] for sample in samples] == ["dog", "rain", "clock"]
        assert {sample["meta"]["fold"] for sample in samples} == {fold}
        for number, sample in enumerate(samples):
            heard = sample["audio"].read(sample_rate=8000)
            assert len(heard) == 2000, "a quarter of a second at the rate that was asked for"
            assert int(torch.fft.rfft(heard).abs().argmax()) * 4 == 400 * (number + 1), "Hz"


def test_the_ten_classes(esc50: ModuleType, folder: Path, tmp_path: Path) -> None:
    assert esc50.main([str(tmp_path / "b"), "--source", str(folder), "--esc10"]) == 0
    samples = list(Source(shards=str(tmp_path / "b/fold2")).samples({"meta"}))
    assert [sample["meta"]["category"] for sample in samples] == ["dog", "rain"]


def test_wrong_source(esc50: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert esc50.main([str(tmp_path / "c"), "--source", str(tmp_path)]) == 0, "the set may lie deeper"
    assert esc50.main([str(tmp_path / "d"), "--source", str(folder), "--rate", "8"]) == 2
    (folder / "ESC-50-master/audio/1-0-A-0.wav").unlink()
    assert esc50.main([str(tmp_path / "e"), "--source", str(folder)]) == 0
    assert "a sound that is not there" in capsys.readouterr().out
    table = folder / "ESC-50-master/meta/esc50.csv"
    table.write_text(table.read_text().replace(",2,", ",two,"))
    assert esc50.main([str(tmp_path / "f"), "--source", str(folder)]) == 2
    assert "row 2 of meta/esc50.csv has no number for a fold" in capsys.readouterr().err
    table.write_text("filename,fold\na.wav,1")
    assert esc50.main([str(tmp_path / "g"), "--source", str(folder)]) == 2
    assert "lacks the columns category" in capsys.readouterr().err
    table.unlink()
    assert esc50.main([str(tmp_path / "h"), "--source", str(folder)]) == 2
    assert "has 0 tables meta/esc50.csv" in capsys.readouterr().err
