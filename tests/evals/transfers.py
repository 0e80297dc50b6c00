"""What tests of transfer share: images of a bright square on noise with its class, outline and normals, in shards."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from named import tar
from PIL import Image

from mmssl.encoders import create_encoder
from mmssl.types import Encoder

SIDE = 32


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def scene(noise: np.random.Generator, *, width: int = SIDE) -> dict[str, Any]:
    """A red or a green square somewhere on grey noise; it faces up or right, the rest the camera; a corner is void."""
    kind = int(noise.integers(2))
    pixels, mask = noise.integers(0, 60, (SIDE, width, 3)), np.zeros((SIDE, width), np.uint8)
    top, left = (int(noise.integers(0, extent - 16)) for extent in (SIDE, width))
    at = slice(top, top + 16), slice(left, left + 16)
    pixels[at] += np.array([(190, 0, 0), (0, 190, 0)][kind])
    mask[at] = kind + 1
    normals = np.full((SIDE, width, 3), (128, 128, 1), np.uint8)
    normals[at] = [(128, 1, 128), (255, 128, 128)][kind]
    normals[0, 0] = 0
    counts = [int(n) for n in np.diff([0, *(np.flatnonzero(np.diff(mask.T.ravel() > 0)) + 1), mask.size])]
    counts = [0, *counts] if mask[0, 0] else counts
    thing = {"category": ("red", "green")[kind], "bbox": [left, top, 16, 16], "iscrowd": 0}
    thing["segmentation"] = {"size": [SIDE, width], "counts": counts}
    void = mask.copy()
    void[0, 0] = 255
    return {
        "png": png(pixels.astype(np.uint8)),
        "mask.png": png(void),
        "normals.png": png(normals),
        "annotations.json": json.dumps([thing]),
    }


def shards(root: Path, *, train: int = 24, test: int = 10) -> dict[str, Any]:
    """Returns the nodes of both sets; one training sample is broken."""
    noise = np.random.default_rng(0)
    samples = [scene(noise) for _ in range(train)]
    broken = {**scene(noise), "mask.png": b"no", "normals.png": b"no", "annotations.json": "{}"}
    return {
        "train": tar(root / "train", [broken, *samples]),
        "data": tar(root / "test", [scene(noise) for _ in range(test)]),
        "workers": 0,
    }


def small() -> Encoder:
    return create_encoder(
        "convnet", image_size=SIDE, widths=[8, 16, 16], depths=[1, 1, 1], strides=[1, 2, 2], stem_stride=2
    )
