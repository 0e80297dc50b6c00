"""SigLIP against the formula of its paper, with absent samples."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl.methods.siglip import SigLIP, method
from mmssl.types import Batch, Method
from mmssl.views.single import view as single_view

sys.path.insert(0, str(Path(__file__).parent))
from tables import Table, defaults, numbers, present, same

PAIRS = [("image", "text"), ("audio", "image")]


def test_the_sum_over_all_pairs_of_a_batch_over_its_size() -> None:
    encoders: dict[str, Any] = {key: Table(key) for key in ("image", "text", "audio")}
    made = SigLIP(encoders, embed_dim=3, hidden=(6,), pairs=PAIRS, scale=3.0, bias=-2.0, max_scale=8.0)
    have = {"image": present(1, 1, 0, 1, 1), "text": present(1, 1, 1, 1, 1), "audio": present(1, 0, 1, 1, 1)}
    batch = Batch({key: [numbers(0, 1, 2, 3, 4)] for key in have}, extra={f"{k}_present": v for k, v in have.items()})
    x = {key: made.heads[key](encoder(batch.views[key][0])) for key, encoder in encoders.items()}
    losses = []
    for a, b in PAIRS:
        rows = (have[a] & have[b]).nonzero()[:, 0].tolist()
        terms = [
            -torch.log(torch.sigmoid((1 if i == j else -1) * (made.scale() * x[a][i] @ x[b][j] + made.bias)))
            for i in rows
            for j in rows
        ]
        losses.append(sum(terms) / len(rows))
    found = made(encoders, batch)
    same(found.total, torch.stack(losses).mean(), [*encoders.values(), made])
    assert list(found.logs) == ["temperature", "loss_image-text", "loss_audio-image"]
    torch.testing.assert_close(found.logs["temperature"], torch.tensor(1 / 3))
    assert made.bias.item() == -2 and made.bias.requires_grad and made.scale.log.requires_grad
    made.scale.log.data.fill_(9.0)
    made.after_step(encoders, 0.0)
    assert made.scale().item() == pytest.approx(8.0)


def test_defaults_are_the_papers() -> None:
    """Zhai et al., section 3.2: t' = log 10 and b = -10; the ceiling is CLIP's."""
    assert method == Method(single_view, SigLIP)
    assert defaults(SigLIP) == {
        "embed_dim": None, "hidden": (), "pairs": None, "headless": (), "scale": None, "bias": None, "max_scale": None,
        "bf16": False,
    }  # fmt: skip
    made = SigLIP({key: Table(key) for key in ("image", "text")})
    assert made.scale().item() == pytest.approx(10.0) and made.bias.item() == -10
    assert made.heads["text"].embed_dim == 512 and made.scale.ceiling == pytest.approx(math.log(100))
