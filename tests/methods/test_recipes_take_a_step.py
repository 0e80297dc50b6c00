"""Every shipped recipe shows samples of a tiny world by its own View and takes one step of its optimizer.

Large encoders are replaced by small ones of the same modality; everything else, the loader included, is the recipe's.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
import yaml
from PIL import Image

from mmssl import create_encoder, names, recipe, save_encoder
from mmssl.modalities import points
from mmssl.modalities.audio import encode as encode_sound
from mmssl.modalities.points import Cloud
from mmssl.modalities.video import encode as encode_film
from mmssl.nn.head import Classes, Middle
from mmssl.trainer import Trainer
from mmssl.types import Encoder

SAMPLES, SECONDS, RATE = 6, 4, 16_000
FEW: dict[
    str, dict[str, Any]
] = {  # method, or recipe -> options that suit so small a set and encoders, and take no minutes
    "ambient_sound": {"size": 3},
    "barlow_twins": {"embed_dim": 16, "hidden": [16, 16]},
    "clusterfit": {"clusters": 3},
    "bownet": {"words": 8, "level": "tokens", "learn_from": 100},
    "deepcluster": {"clusters": 3, "pca": 4},
    "deepcluster:v2": {"clusters": [3, 2]},
    "dino": {"prototypes": 16, "hidden": [16, 16]},
    "directclr": {"dims": 8},
    "distill": {"classes": 3, "fraction": 0.5},
    "dvae": {"width": 4, "first": 8, "depth": 1},
    "esvit": {"prototypes": 16, "hidden": [16, 16]},
    "finetune": {"classes": 3, "fraction": 1.0},
    "metric_transfer": {"classes": 3, "fraction": 0.5},
    "image/resim": {"cells": [8, 4], "windows": [24, 16], "steps": [16, 12]},
    "icmlm": {"learn_from": 8},
    "jigsaw": {"permutations": 10, "hidden": [16]},
    "obow": {"words": 16, "levels": ["tokens"]},
    "pcl": {"clusters": [3, 2]},
    "pcl:v2": {"clusters": [3, 2]},
    "sela": {"clusters": 3},
    "selavi": {"clusters": 3, "heads": 2},
    "vicreg": {"embed_dim": 16, "hidden": [16, 16]},
    **{name: {"learn_from": 1000} for name in ("colorization", "split_brain", "color_tracking")},
}


def sample(number: int) -> dict[str, Any]:
    """An image, a video of a moving square, its sound, a scan from two places, and captions."""
    draw = np.random.default_rng(number)
    picture = io.BytesIO()
    Image.fromarray(draw.integers(0, 255, (70, 80, 3), dtype=np.uint8)).save(picture, "PNG")
    film = np.tile(draw.integers(0, 120, (1, 64, 64, 3), dtype=np.uint8), (25 * SECONDS, 1, 1, 1))
    for time in range(len(film)):
        left = (time + 10 * number) % 48
        film[time, 24:36, left : left + 12] = (250, 200, 20)
    sound = draw.uniform(-0.3, 0.3, RATE * SECONDS).astype(np.float32)
    xyz = draw.uniform(0, 2, (800, 3))
    xyz[np.arange(800), np.arange(800) % 3] = 0  # on three walls
    cloud = points.encode(Cloud(xyz, draw.integers(0, 255, (800, 3), dtype=np.uint8), np.eye(3)[np.arange(800) % 3]))
    pose = {"camera_to_world": np.eye(4).tolist()}
    meta = {"points_a": pose, "points_b": pose, "captions": ["a square", f"a square over {number}"], "text": "a square"}
    meta["subtitles"] = [{"text": f"a square {n}", "start": n, "end": n + 0.5} for n in range(3)]
    scans = dict.fromkeys(("ply", "points_a.ply", "points_b.ply"), cloud)
    mp4 = encode_film(film, fps=25.0, audio=sound, sample_rate=RATE)
    wav = encode_sound(sound, sample_rate=RATE)
    return {
        "png": picture.getvalue(),
        "mp4": mp4,
        "wav": wav,
        "txt": "a square",
        "json": meta,
        "cls": b"%d" % (number % 3),
        **scans,
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("world")
    with webdataset.TarWriter(str(folder / "a.tar")) as writer:
        for number in range(SAMPLES):
            made = sample(number)
            writer.write({"__key__": str(number), **made, "json": json.dumps(made["json"]).encode()})
    return str(folder / "a.tar")


CONVNET = {"name": "convnet", "image_size": 56, "widths": [8, 16], "depths": [1, 1]}
VIT = {"name": "vit", "image_size": 112, "width": 16, "depth": 1, "heads": 2}  # in patches of 16, as have small crops
CODES = {"name": "codes", "image_size": 56, "codes": 8, "width": 4, "depth": 1}
TEXT = {"width": 16, "depth": 1, "heads": 2, "vocab_size": 300}


def small(node: dict[str, Any]) -> dict[str, Any]:
    """Returns an encoder's node, what is large in it replaced."""
    kind, _, variant = node["name"].partition(":")
    if kind == "timm":
        return {**CONVNET, **{option: node[option] for option in ("in_channels",) if option in node}}
    if kind == "transformers":
        return {"name": "transformer", **TEXT}
    if kind == "vit" and variant:
        return {**node, **VIT}
    if kind == "convnet" and max(node.get("widths", [0])) > 256:
        return {**node, "widths": [8, 16], "depths": [1, 1]}
    if kind == "codes" and "width" not in node:
        return CODES
    if node.get("width", 0) > 128:
        return {**node, **TEXT, "depth": min(node.get("depth", 1), 1)}
    return {key: small(value) if isinstance(value, dict) else value for key, value in node.items()}


def trained(kind: str, options: dict[str, Any]) -> Encoder:
    """Returns an encoder with the heads of the runs after which some recipes come."""
    made = create_encoder(kind, **options)
    made.spaces["simclr_middle"] = Middle(made.dim, out=made.dim)
    made.spaces["finetune"] = Classes(made.dim, classes=3, hidden=made.dim)
    return made


def reduced(name: str, world: str, tmp_path: Path) -> dict[str, Any]:
    """Returns a shipped recipe on the tiny world."""
    tree = yaml.safe_load(recipe.load(name).dump())
    tree["encoders"] = {key: small(node) for key, node in tree["encoders"].items()}
    start = {}
    for key in tree["train"].get("start", {}):
        kind, options = recipe.split(tree["encoders"][key])
        save_encoder(trained(kind, options), tmp_path / key)
        start[key] = str(tmp_path / key)
    tree |= {"train": {"samples": 64, "precision": "fp32", "start": start}, "evals": {}}
    for task in tree["tasks"].values():
        kept = {key: task["data"][key] for key in ("fields", "in_memory") if key in task["data"]}
        task |= {"data": {**kept, "shards": world, "workers": 0}, "batch": 4}
        few = FEW.get(name, FEW.get(task["method"]["name"], {}))
        task["method"]["objective"] = {**task["method"].get("objective", {}), **few}
    return tree


@pytest.mark.parametrize("name", names.list_names("configs"))
def test_it_takes_a_step(name: str, world: str, tmp_path: Path) -> None:
    made = recipe.check(reduced(name, world, tmp_path))
    if "flow" in made.encoders:
        pytest.importorskip("cv2")
    trainer = Trainer(made, tmp_path / "run", device=torch.device("cpu"), state=None)
    before = [p.detach().clone() for p in trainer.weights]
    losses, _ = trainer.train_step()
    trainer.close()
    assert all(loss.total.isfinite() and loss.rows for loss in losses.values())
    assert trainer.bad_steps.item() == 0
    assert any(not p.equal(old) for p, old in zip(trainer.weights, before, strict=True))
