"""Runs that learn from few labels: which samples are shown, with which classes, and how they are resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from mmssl import checkpoint, recipe, save_encoder
from mmssl.assembly import build_encoder
from mmssl.errors import UserError
from mmssl.modalities import image
from mmssl.nn.head import Middle
from mmssl.objectives.few_labels import few
from mmssl.trainer import Trainer

NAMES = ["truck", "bird", "cat"]  # as numbered in the shards; sorted, truck is the last
CONVNET = {"name": "convnet", "image_size": 16, "widths": [8], "depths": [1], "stem_stride": 2}
SIZES = (7, 14)


@pytest.fixture
def shards(tmp_path: Path) -> str:
    folder, noise, number = tmp_path / "shards", np.random.default_rng(0), 0
    folder.mkdir()
    for shard, size in enumerate(SIZES):
        with webdataset.TarWriter(str(folder / f"{shard}.tar")) as tar:
            for _ in range(size):
                pixels = noise.integers(0, 255, (16, 16, 3)).astype(np.uint8)
                tar.write({"__key__": str(number), "png": image.encode(pixels), "cls": number % 3})
                number += 1
    (folder / "index.json").write_text(
        json.dumps(
            {"format": "mmssl-shards-1", "classes": NAMES, "samples": number}
            | {"shards": [{"name": f"{shard}.tar", "samples": size} for shard, size in enumerate(SIZES)]}
        )
    )
    return str(folder)


def run(shards: Any, tmp_path: Path, *, state: dict[str, Any] | None = None, **objective: Any) -> Trainer:
    trained = build_encoder("image", CONVNET)
    trained.spaces["simclr_middle"] = Middle(8, out=8)
    if not (tmp_path / "start").is_dir():
        save_encoder(trained, tmp_path / "start")
    made = recipe.check({
        "encoders": {"image": CONVNET},
        "tasks": {"finetune": {
            "data": {**({"sources": shards} if isinstance(shards, list) else {"shards": shards}), "workers": 0},
            "batch": 2,
            "method": {"name": "finetune", "objective": {"classes": 3, "fraction": 0.3, "seed": 1, **objective}},
        }},
        "train": {"samples": 12, "precision": "fp32", "start": {"image": str(tmp_path / "start")}},
    })  # fmt: skip
    return Trainer(made, tmp_path / "run", device=torch.device("cpu"), state=state)


def test_the_few_alone_are_shown_with_the_classes_of_evaluations(shards: str, tmp_path: Path) -> None:
    trainer = run(shards, tmp_path)
    classes = {number: [2, 0, 1][number % 3] for number in range(21)}  # truck is the last of the sorted names
    expected = few(classes, 0.3, seed=1)
    stream = trainer.streams["finetune"]
    seen: list[int] = []
    while len(seen) < 2 * len(expected):
        seen += stream.next(torch.device("cpu")).extra["index"].tolist()
    trainer.close()
    assert set(seen) == set(expected) and len(expected) == 6
    rows = trainer.model.objectives["finetune"].known.rows[:, 0].tolist()
    assert rows == [expected.get(number, -1) for number in range(21)]


def test_several_sets_are_numbered_one_behind_the_other(shards: str, tmp_path: Path) -> None:
    trainer = run([{"shards": f"{shards}/0.tar", "weight": 1}, {"shards": f"{shards}/1.tar", "weight": 1}], tmp_path)
    trainer.close()
    rows = trainer.model.objectives["finetune"].known.rows[:, 0].tolist()
    expected = few({number: [2, 0, 1][number % 3] for number in range(21)}, 0.3, seed=1)
    assert rows == [expected.get(number, -1) for number in range(21)]


def test_a_resumed_run_goes_on_without_its_start(shards: str, tmp_path: Path) -> None:
    whole = run(shards, tmp_path)
    for _ in range(6):
        whole.train_step()
    whole.close()
    half = run(shards, tmp_path)
    for _ in range(3):
        half.train_step()
    half.save()
    half.close()
    (tmp_path / "start" / "config.json").unlink()
    state, _ = checkpoint.load_state(tmp_path / "run" / "checkpoints")
    again = run(shards, tmp_path, state=state)
    for _ in range(3):
        again.train_step()
    again.close()
    for (name, one), other in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_what_the_set_lacks_is_said_with_the_task(shards: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^tasks\.finetune: objective\.classes is 4, and the training set has 3"):
        run(shards, tmp_path, classes=4)
    with pytest.raises(UserError, match=r"^tasks\.finetune: .*kind"):
        run(shards, tmp_path, label="kind")
