"""What each method is tried with: small encoders, a batch, and options. A new method adds its line to SETTINGS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmssl import names
from mmssl.encoders import create_encoder
from mmssl.multitask import MultiTask
from mmssl.types import Batch, Encoder

VIT = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "image": ("vit", VIT),
    "text": ("transformer", {"width": 16, "depth": 1, "heads": 2, "context_length": 8, "vocab_size": 300}),
    "video": ("frames", {"image": {"name": "vit", **VIT}, "frames": 4}),
    "audio": ("spectrogram", {"backbone": {"name": "vit", "in_channels": 1, **VIT}, "seconds": 0.1, "mels": 16}),
    "points": ("pointnet", {"widths": [8, 16]}),
}


def plain(keys: tuple[str, ...], rows: int, *, views: int = 1) -> Batch:
    """Makes views of random content, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"image": (3, 16, 16), "video": (3, 4, 16, 16)}

    def one(key: str) -> Tensor:
        if key == "text":
            return torch.randint(1, 300, (rows, 6), generator=generator)
        if key == "audio":
            return torch.randn(rows, 1600, generator=generator)
        if key.startswith("points"):
            xyz = torch.rand(rows * 6, 3, generator=generator)
            return torch.cat([torch.arange(rows).repeat_interleave(6)[:, None], xyz], dim=1)
        return torch.randint(0, 256, (rows, *shapes[key]), generator=generator, dtype=torch.uint8)

    return Batch({key: [one(key) for _ in range(views)] for key in keys})


@dataclass(slots=True)
class Setting:
    """keys: the encoders. make: (keys, rows) -> Batch; whole: the keys that a sample must have to count."""

    keys: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    make: Callable[[tuple[str, ...], int], Batch] = plain
    encoders: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    lr: float = 3e-3


SETTINGS = {
    "clip": Setting(("image", "text"), {"embed_dim": 8}),
    "siglip": Setting(("image", "text"), {"embed_dim": 8}),
}


def build(name: str) -> MultiTask:
    """Makes a run of the one method, the same at every call.

    BatchNorm keeps its starting statistics, so that several processes can equal one.
    """
    torch.manual_seed(0)
    setting = SETTINGS[name]
    encoders: dict[str, Encoder] = {}
    for key in setting.keys:
        kind, options = {**ENCODERS, **setting.encoders}[key]
        encoders[key] = create_encoder(kind, **options)
    method, _ = names.resolve("methods", name)
    model = MultiTask(encoders, {name: method.objective(encoders, **setting.options)}, {name: 1.0})
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    model.objectives[name].learn(iter(lambda: batch(name), None))
    return model


def batch(name: str, rows: int = 8, *, missing: bool = True) -> Batch:
    """Makes a batch of raw views, the same at every call; some samples lack a modality."""
    setting = SETTINGS[name]
    made = setting.make(setting.keys, rows)
    for number, key in enumerate(setting.keys):
        present = torch.ones(rows, dtype=torch.bool)
        if missing:
            present[number :: 3 + number] = False
        made.extra[f"{key}_present"] = present
    return made


def pick(whole: Batch, rows: Tensor) -> Batch:
    """Returns the samples at an index (b,); points, which are packed, are renumbered."""
    views = {}
    for key, several in whole.views.items():
        if key.startswith("points"):
            parts = [[view[view[:, 0] == row] for row in rows.tolist()] for view in several]
            for clouds in parts:
                for number, cloud in enumerate(clouds):
                    cloud[:, 0] = number
            views[key] = [torch.cat(clouds) for clouds in parts]
        else:
            views[key] = [view[rows] for view in several]
    target = None if whole.target is None else whole.target[rows]
    return Batch(views, target, {key: value[rows] for key, value in whole.extra.items()})
