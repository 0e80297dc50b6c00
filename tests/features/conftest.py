"""A small model of images and words, and photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.checkpoint import load_encoder, save_encoder
from mmssl.encoders import create_encoder
from mmssl.nn.head import Projection


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image encoder with a joint embedding of its own."""
    torch.manual_seed(1)
    encoder = create_encoder("convnet", image_size=16, widths=[8], depths=[1], stem_stride=1)
    encoder.spaces["clip"] = Projection(encoder.dim, out=4)
    folder = tmp_path_factory.mktemp("model")
    save_encoder(encoder, folder)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures in two folders, a damaged one, and files that are none."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(7):
        file = root / ("ab"[number % 2]) / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 255, (20, 24, 3), np.uint8)).save(file)
    (root / "a" / "cut.png").write_bytes((root / "a" / "0.png").read_bytes()[:200])
    (root / "readme.txt").write_text("no picture")
    (root / "raw.heic").write_bytes(b"x")
    return root


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A run of an image and a text encoder."""
    folder = tmp_path_factory.mktemp("run")
    save_encoder(load_encoder(model), folder / "encoders" / "image")
    text = create_encoder("transformer", width=8, depth=1, heads=2, vocab_size=270)
    text.learn_preprocess(["a red cube", "a green ball"])
    text.spaces["clip"] = Projection(text.dim, out=4)
    save_encoder(text, folder / "encoders" / "text")
    return folder
