"""What each method is tried with: small encoders, a batch, and options. A new method adds its line to SETTINGS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from mmssl import names
from mmssl.encoders import create_encoder
from mmssl.multitask import MultiTask
from mmssl.types import Batch

# Without BatchNorm, so that several processes can equal one.
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "image": ("vit", {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}),
    "text": ("transformer", {"width": 16, "depth": 1, "heads": 2, "context_length": 8, "vocab_size": 300}),
}


@dataclass(slots=True)
class Setting:
    modalities: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


SETTINGS = {
    "clip": Setting(("image", "text"), {"embed_dim": 8}),
    "siglip": Setting(("image", "text"), {"embed_dim": 8}),
}


def build(name: str) -> MultiTask:
    """Makes a run of the one method, the same at every call."""
    torch.manual_seed(0)
    setting = SETTINGS[name]
    encoders = {key: create_encoder(ENCODERS[key][0], **ENCODERS[key][1]) for key in setting.modalities}
    method, _ = names.resolve("methods", name)
    return MultiTask(encoders, {name: method.objective(encoders, **setting.options)}, {name: 1.0})


def batch(name: str, rows: int = 8, *, missing: bool = True) -> Batch:
    """Makes a batch of raw views, the same at every call; some samples lack a modality."""
    generator = torch.Generator().manual_seed(1)
    views = {
        "image": torch.randint(0, 256, (rows, 3, 16, 16), generator=generator, dtype=torch.uint8),
        "text": torch.randint(1, 300, (rows, 6), generator=generator),
    }
    made = Batch({key: [views[key]] for key in SETTINGS[name].modalities})
    for number, key in enumerate(SETTINGS[name].modalities):
        present = torch.ones(rows, dtype=torch.bool)
        if missing:
            present[number :: 3 + number] = False
        made.extra[f"{key}_present"] = present
    return made
