"""ALIGN against torch's cross-entropy with label smoothing, with absent samples."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods.align import ALIGN, method
from mmssl.nn.head import Projection
from mmssl.types import Batch, Joint

sys.path.insert(0, str(Path(__file__).parent))
from tables import Table, defaults, numbers, present, same


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_smoothed_labels_over_the_batch_both_ways(smoothing: float) -> None:
    encoders: dict[str, Any] = {"image": Table("image", 4), "text": Table("text", 3)}
    made = ALIGN(encoders, smoothing=smoothing, temperature=0.4, max_scale=8.0)
    have = {"image": present(1, 1, 0, 1, 1), "text": present(1, 1, 1, 0, 1)}
    batch = Batch({key: [numbers(0, 1, 2, 3, 4)] for key in have}, extra={f"{k}_present": v for k, v in have.items()})
    rows = [0, 1, 4]
    seen = F.normalize(encoders["image"].pooled[rows], dim=1)
    said = F.normalize(encoders["text"].pooled[rows] @ made.heads["text"].layers[-1].weight.T, dim=1)
    logits = seen @ said.T * made.scale()
    losses = [F.cross_entropy(x, torch.arange(3), label_smoothing=smoothing) for x in (logits, logits.T)]
    found = made(encoders, batch)
    same(found.total, torch.stack(losses).mean(), [*encoders.values(), made])
    torch.testing.assert_close(found.logs["loss_text-image"], losses[1].detach())
    assert not [*made.heads["image"].parameters()], "the space is the image encoder's own"
    made.scale.log.data.fill_(9.0)
    made.after_step(encoders, 0.0)
    assert made.scale().item() == pytest.approx(8.0)


def test_defaults_are_the_papers() -> None:
    """Jia et al., sections 4.1, 5.1: smoothing 0.1; 289 of 346 pixels; a temperature that is learnt."""
    assert defaults(ALIGN) == {"smoothing": 0.1, "temperature": None, "max_scale": None, "bf16": False}
    made = ALIGN({key: Table(key) for key in ("image", "text")})
    assert made.scale().item() == 1 and made.scale.log.requires_grad
    crop, flip = method.view.modalities["image"]  # type: ignore[attr-defined]
    assert crop.scale == pytest.approx((0.6977,) * 2, abs=1e-4) and crop.ratio == (1.0, 1.0) and flip.p == 0.5
    for wrong in (-0.1, 1.0):
        with pytest.raises(UserError, match="expected a share from 0 to below 1"):
            ALIGN({key: Table(key) for key in ("image", "text")}, smoothing=wrong)
    with pytest.raises(UserError, match="temperature is 0"):
        ALIGN({key: Table(key) for key in ("image", "text")}, temperature=0.0)
    with pytest.raises(UserError, match="no such encoder"):
        ALIGN({"image": Table("image"), "audio": Table("audio")})


def test_pretrained_towers_keep_their_own_space() -> None:
    encoders: dict[str, Any] = {key: Table(key) for key in ("image", "text")}
    for encoder in encoders.values():
        encoder.joint = Joint("clip", Projection(4, out=6), 6, scale=50.0)
    made = ALIGN(encoders)
    assert made.heads["image"] is encoders["image"].joint.head and made.scale().item() == pytest.approx(50.0)
    assert isinstance(made.heads["text"], nn.Module) and made.heads["text"].embed_dim == 6
