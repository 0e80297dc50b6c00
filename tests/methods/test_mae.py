"""MAE (He et al., CVPR 2022) and its tubes (Tong et al., NeurIPS 2022) by their formula."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.methods import mae
from mmssl.methods.mae import MAE
from mmssl.objectives.masking import random_mask
from mmssl.types import Batch, Encoder, Features
from mmssl.views.mae import view as mae_view

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import defaults, same, shake

SMALL = {"width": 8, "depth": 1, "heads": 2}
ENCODERS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {  # input, grid
    "image": ("vit", {"image_size": 8, "patch_size": 2, **SMALL}, (3, 8, 8), (4, 4)),
    "video": ("video_vit", {"image_size": 8, "patch_size": 4, "frames": 6, **SMALL}, (3, 6, 8, 8), (3, 2, 2)),
}


def shown(key: str, rows: int = 5, absent: int = 2) -> Batch:
    x = torch.rand(rows, *ENCODERS[key][2])
    present = torch.arange(rows) != absent
    return Batch({key: [x]}, extra={"seed": torch.arange(rows) + 11, f"{key}_present": present})


def made(key: str, **options: Any) -> tuple[Any, MAE]:
    encoder: Encoder = create_encoder(ENCODERS[key][0], **ENCODERS[key][1])
    objective = MAE({key: encoder}, **{"width": 16, "depth": 2, "heads": 4} | options)
    shake(encoder, objective, by=0.1)
    return encoder, objective


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize(
    "key, mask, ratio", [("image", "random", 0.4), ("video", "random", 0.6), ("video", "tube", 0.6)]
)
def test_the_loss_is_the_papers_in_value_and_gradient(key: str, mask: Any, ratio: float, whiten: bool) -> None:
    encoder, objective = made(key, ratio=ratio, mask=mask, whiten=whiten)
    batch, grid = shown(key), ENCODERS[key][3]
    found = objective({key: encoder}, batch)

    hidden, seen = random_mask(batch.extra["seed"], grid, ratio=ratio, tube=mask == "tube")
    patches = encoder.patches(batch.views[key][0]).values
    tokens = encoder.tokenize(encoder.patches(batch.views[key][0]))
    kept = torch.stack([torch.stack([tokens[row, place] for place in seen[row]]) for row in range(5)])
    features: Features = encoder.encode_tokens(kept)
    predicted = objective.decoder(features, seen, grid)
    losses = []
    for row in (0, 1, 3, 4):
        errors: list[Tensor] = []
        for place in hidden[row].nonzero()[:, 0].tolist():
            patch = patches[row, place]
            if whiten:
                patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
            errors.append((predicted[row, place] - patch).square().mean())
        losses.append(sum(errors) / len(errors))
    same(found.total, sum(losses) / 4, encoder, objective)
    torch.testing.assert_close(found.embeddings[key], features.pooled.detach())
    assert not found.embeddings[key].requires_grad and not found.logs


def test_without_a_view_it_says_so() -> None:
    encoder, objective = made("image")
    with pytest.raises(UserError, match="the task compares 1 views of image, but 0 is shown"):
        objective({"image": encoder}, Batch({"image": []}, extra={"seed": torch.arange(2)}))


def test_the_decoder_has_the_size_that_is_asked_for() -> None:
    encoder, objective = made("image")
    blocks = objective.decoder.blocks.layers
    assert (len(blocks), blocks[0].attention.heads, objective.decoder.embed.out_features) == (2, 4, 16)
    assert objective.decoder.embed.in_features == 8 and objective.decoder.predict.out_features == 12
    assert MAE({"a": encoder, "b": encoder}, **SMALL, encoder="b").uses == ("b",)


def test_defaults_are_the_papers() -> None:
    """models_mae.py: decoder_embed_dim, depth, heads; main_pretrain.py: mask_ratio; norm_pix_loss of its best runs."""
    assert defaults(MAE) == {
        "ratio": 0.75,
        "mask": "random",
        "width": 512,
        "depth": 8,
        "heads": 16,
        "whiten": True,
        "encoder": None,
    }
    assert (mae.method.view, mae.method.objective) == (mae_view, MAE)
