"""What tests of classes and of damaged samples share: a colour for each class, and sets of several kinds."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from PIL import Image

COLORS = {
    "ant": (200, 30, 30),
    "bee": (30, 200, 30),
    "cat": (30, 30, 200),
    "dog": (200, 200, 30),
    "emu": (240, 240, 240),
}
NOISE = 20


def png(name: str, seed: int, *, size: int = 16) -> bytes:
    """A noisy square of so many pixels in the colour of a class."""
    pixels = np.random.default_rng(seed).normal(COLORS[name], NOISE, (size, size, 3))
    stream = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def broken(data: bytes) -> bytes:
    """A PNG whose header is whole and whose pixels are cut off."""
    return data[: len(data) // 2]


def folder(root: Path, **counts: int) -> Path:
    """Writes a folder for each class with so many images."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.png").write_bytes(png(name, number))
    return root


def tar(root: Path, samples: Iterable[Mapping[str, Any]], *, classes: list[str] | None = None) -> dict[str, Any]:
    """Writes a shard of samples, with an index.json where classes are listed; returns the `data` node."""
    root.mkdir(parents=True, exist_ok=True)
    count = 0
    with webdataset.TarWriter(str(root / "0.tar")) as writer:
        for count, sample in enumerate(samples, 1):
            writer.write({"__key__": f"{count:03d}", **sample})
    if classes is not None:
        entry = {"name": "0.tar", "samples": count, "fields": {}}
        index = {"format": "mmssl-shards-1", "shards": [entry], "classes": classes}
        (root / "index.json").write_text(json.dumps(index))
    return {"shards": str(root / "0.tar")}


def bare(root: Path, names: Iterable[str], order: list[str], **options: Any) -> dict[str, Any]:
    """Writes a shard whose cls are places in a list."""
    return tar(root, ({"png": png(n, i), "cls": order.index(n)} for i, n in enumerate(names)), **options)
