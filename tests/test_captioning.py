"""Captions of people's own images: a file or a folder, what cannot be read, and the command's document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmssl import captioning, cli
from mmssl.captioning import caption
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods.virtex import VirTex
from mmssl.types import Pretext, Trained

CONVNET = {"image_size": 8, "widths": [8], "depths": [1], "stem_stride": 1}


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    torch.manual_seed(0)
    text = create_encoder("transformer", width=8, depth=0, heads=1, vocab_size=258, context_length=6)
    encoders = {"image": create_encoder("convnet", **CONVNET), "text": text}
    task = VirTex(encoders)
    torch.nn.init.normal_(task.bias, std=2.0)
    made = Trained(encoders, {"mine": Pretext(task, lambda: None, {})})  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(captioning, "load_run", lambda run, **_: made)
    return made


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "in").mkdir(parents=True)
    Image.new("RGB", (9, 8), (250, 10, 10)).save(folder / "b.png")
    Image.new("RGB", (8, 9), (10, 10, 250)).save(folder / "in" / "a.jpg")
    (folder / "c.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def test_a_folder_and_a_file(images: Path, trained: Trained) -> None:
    found = caption("run", images, beams=2, length=3, batch_size=1, progress=False)
    assert [row[0] for row in found.rows] == [str(images / "b.png"), str(images / "in" / "a.jpg")]
    assert list(found.skipped) == [str(images / "c.png")]
    task, encoder = trained.tasks["mine"].objective, trained.encoders["image"]
    assert isinstance(task, VirTex)
    for path, text, log_prob in found.rows:
        (alone,) = task.captions(trained.encoders, encoder.preprocess(Path(path))[None], beams=2, length=3)
        assert (text, log_prob) == (alone.text, pytest.approx(alone.log_prob, rel=1e-5))
        one = caption("run", path, task="mine", beams=2, length=3, progress=False)
        assert one.rows == [(path, text, pytest.approx(log_prob, rel=1e-5))]
    longer = caption("run", images, progress=False).rows
    assert longer != found.rows and all(len(text) <= 6 for _, text, _ in longer)


def test_what_is_refused(images: Path, tmp_path: Path, trained: Trained) -> None:
    with pytest.raises(UserError, match="none of the images can be read; .*c.png"):
        caption("run", images / "c.png", progress=False)
    with pytest.raises(UserError, match="there is no .*nowhere"):
        caption("run", tmp_path / "nowhere", progress=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images; expected files that end in"):
        caption("run", tmp_path / "empty", progress=False)
    with pytest.raises(UserError, match="beams is 0"):
        caption("run", images, beams=0)
    with pytest.raises(UserError, match="no task 'other' that writes captions"):
        caption("run", images, task="other")


def test_the_command(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["caption", "run", str(images), "--quiet", "--length", "3", "--beams", "2", "--batch-size", "2"]
    expected = caption("run", images, beams=2, length=3, progress=False)
    assert cli.main(words) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [f"{path}\t{text}" for path, text, _ in expected.rows] and "c.png" in told.err
    assert cli.main([*words, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [(row["image"], row["caption"]) for row in document["captions"]] == [row[:2] for row in expected.rows]
    assert document["captions"][0]["log_prob"] == pytest.approx(expected.rows[0][2], rel=1e-5)
    assert list(document["skipped"]) == [str(images / "c.png")]
