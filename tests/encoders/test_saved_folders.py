"""Encoder folders that were saved before clouds and words were Ragged load, and give the embeddings that they gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmssl.checkpoint import load_encoder, save_weights
from mmssl.encoders import create_encoder

CLOUDS = [np.stack([np.sin(0.7 * np.arange(n)), np.cos(0.3 * np.arange(n)), np.arange(n) % 5 / 5], 1) for n in (1, 30)]
TEXTS = ["a ball", "zwei blaue Würfel"]
BERT = {
    "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "vocab_size": 300, "max_position_embeddings": 24, "pad_token_id": 0,
}  # fmt: skip
POINTS = {"points": None, "features": [], "centre": False}
WORDS = {"context_length": 24, "pad_id": 0}
SAVED: dict[str, tuple[str, int, dict[str, Any], dict[str, Any], list[list[float]]]] = {
    "pointnet": (
        "points",
        8,
        {"widths": [4, 8], "points": None, "align": True},
        POINTS,
        [[7.26364, 0.0, 0.0, 2.19302], [19.04286, 11.08858, 0.0, 2.48728]],
    ),
    "sparse_unet": (
        "points",
        8,
        {"planes": [4, 8, 8, 8], "voxel": 0.3, "coordinates": True},
        POINTS,
        [[2.51973, 2.4416, 2.17502, 1.79282], [2.81954, 2.55976, 2.07043, 1.49073]],
    ),
    "transformer": (
        "text",
        8,
        {"width": 8, "depth": 1, "heads": 2, "vocab_size": 260, "context_length": 24},
        WORDS,
        [[3.37427, 2.28137, 3.34208, 0.36809], [3.33903, 2.27992, 3.37693, 0.39949]],
    ),
    "transformers": (
        "text",
        16,
        {"architecture": BERT, "pool": None, "context_length": 24},
        WORDS,
        [[2.92605, 2.80719, 2.18426, 1.31094], [2.5277, 2.32058, 1.70688, 0.94213]],
    ),
}


def weights(name: str, value: Tensor) -> Tensor:
    """Returns a saved tensor's numbers, by a formula."""
    if not value.is_floating_point():
        return value
    waves = torch.sin(0.37 * torch.arange(value.numel(), dtype=torch.float64) + 1).view(value.shape).to(value.dtype)
    return waves.abs() + 0.5 if "var" in name or (value.ndim == 1 and "mean" not in name) else waves / 2


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_encoder_embeds_as_it_did(tmp_path: Path, name: str) -> None:
    modality, dim, options, preprocess, expected = SAVED[name]
    encoder = create_encoder(name, **options)
    save_weights(
        {f"encoder.{key}": weights(key, x) for key, x in encoder.state_dict().items()}, tmp_path / "model.safetensors"
    )
    encoder.save_files(tmp_path)
    about = {"format": 1, "modality": modality, "dim": dim, "encoder": {"name": name, "options": options}}
    (tmp_path / "config.json").write_text(json.dumps({**about, "preprocess": preprocess, "spaces": {}}))
    found = load_encoder(tmp_path).encode(CLOUDS if modality == "points" else TEXTS)
    torch.testing.assert_close(found[:, :4], torch.tensor(expected), rtol=1e-4, atol=1e-5)
