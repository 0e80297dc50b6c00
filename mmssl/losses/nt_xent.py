"""NT-Xent: find a sample's other view among all views of the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.losses.infonce import MISSING


def nt_xent(one: Tensor, other: Tensor, *, temperature: float, present: Tensor | None = None) -> Tensor:
    """Cross-entropy of picking each view's partner among the batch's 2B - 1 other views, one loss per sample.

    one, other: two views (B, D) of unit length. present: (B,) bool, samples that count. The views of all processes
    are candidates, with their gradient. Returns (B,) float32, the mean of a sample's two views; 0 for an absent one.
    Chen et al., ICML 2020 (SimCLR).
    """
    with torch.autocast(one.device.type, enabled=False):
        one, other = one.float(), other.float()
        there = torch.ones(len(one), dtype=torch.bool, device=one.device) if present is None else present
        keys = torch.cat([dist.gather_with_grad(one), dist.gather_with_grad(other)])  # (2 world B, D)
        keep = dist.gather(there).repeat(2)
        own = torch.arange(len(one), device=one.device) + dist.rank() * len(one)
        half = len(keys) // 2
        losses = [
            _pick(queries, keys, keep, itself=own + half * view, partner=own + half * (1 - view), scale=1 / temperature)
            for view, queries in enumerate((one, other))
        ]
        return torch.where(there, (losses[0] + losses[1]) / 2, 0.0)


def _pick(queries: Tensor, keys: Tensor, keep: Tensor, *, itself: Tensor, partner: Tensor, scale: float) -> Tensor:
    logits = (scale * queries @ keys.T).masked_fill(~keep, MISSING)
    return F.cross_entropy(logits.scatter(1, itself[:, None], MISSING), partner, reduction="none")
