"""Small scenes: blocks before a ramp, with their masks, boxes and depth."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from PIL import Image

WIDTH, HEIGHT = 56, 44
COLORS = np.array([[220, 40, 40], [40, 200, 60], [50, 70, 230], [230, 200, 40], [200, 60, 210]])


def scene(number: int) -> dict[str, Any]:
    """Returns image, mask (0 is the ground), boxes and depth (H, W) in metres of a scene."""
    noise = np.random.default_rng(number)
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    image = np.stack([across * 3, down * 4, 120 + 0 * down], axis=-1) + noise.normal(0, 12, (HEIGHT, WIDTH, 3))
    mask, depth, boxes = np.zeros((HEIGHT, WIDTH), np.uint8), 6 - down * 0.1, []
    for block in range(1, 3):
        width, height = (int(side) for side in noise.integers(14, 24, 2))
        left, top = int(noise.integers(0, WIDTH - width)), int(noise.integers(0, HEIGHT - height))
        here = np.s_[top : top + height, left : left + width]
        image[here] = COLORS[noise.integers(len(COLORS))] + noise.normal(0, 12, (height, width, 3))
        mask[here], depth[here] = block, 0.5 * block
        boxes.append([left, top, left + width, top + height])
    pixels = image.clip(0, 255).astype(np.uint8)
    return {"image": pixels, "mask": mask, "boxes": boxes, "depth": depth.astype(np.float32)}


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, count: int) -> Path:
    """Writes scenes as any webdataset is: png, mask.png, depth.npy, and boxes in json."""
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(count):
            made, depth = scene(number), io.BytesIO()
            np.save(depth, made["depth"])
            writer.write(
                {
                    "__key__": f"{number:04d}",
                    "png": png(made["image"]),
                    "mask.png": png(made["mask"]),
                    "depth.npy": depth.getvalue(),
                    "json": json.dumps({"boxes": made["boxes"]}).encode(),
                }
            )
    return path
