"""The cards for users' own files: their scripts run as scripts, and a mistake is one line and exit code 2."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mmssl.data.shards import Source
from mmssl.names import home


def script(dataset: str) -> str:
    return str(home("datasets") / dataset / "prepare.py")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "in" / name / "1.png")
    (tmp_path / "in/table.csv").write_text("image,title\ncat/1.png,a cat\ndog/1.png,a dog\n")
    return tmp_path / "in"


def test_image_folder(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat/._1.png", ".ipynb_checkpoints/1.png", "cat/2.png"):
        (pictures / name).parent.mkdir(exist_ok=True)
        (pictures / name).write_bytes(b"no image")
    assert runpy.run_path(script("image_folder"))["main"]([str(tmp_path / "a"), "--source", str(pictures)]) == 0
    told = capsys.readouterr().out
    assert "2 samples in 1 shards" in told
    assert "left out 1: not an " in told
    assert "(such as cat/2.png)" in told
    assert "passed over: 1 .csv, 2 hidden" in told
    labels = [sample["label"] for sample in Source(shards=str(tmp_path / "a")).samples({"image", "label"})]
    assert sorted(labels) == [0, 1]


def test_manifest(pictures: Path, tmp_path: Path) -> None:
    table = str(pictures / "table.csv")
    main = runpy.run_path(script("manifest"))["main"]
    assert main([str(tmp_path / "a"), "--source", table, "--column", "text=title"]) == 0
    texts = [sample["text"] for sample in Source(shards=str(tmp_path / "a")).samples({"image", "text"})]
    assert sorted(texts) == ["a cat", "a dog"]
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, script("manifest"), str(tmp_path / "a"), "--source", table]
    again = subprocess.run(command, env=paths, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "is not empty" in again.stderr
