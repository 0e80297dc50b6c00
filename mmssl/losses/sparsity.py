"""Sparsity: few units of a code are active at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl import dist

LEAST = 1e-6  # a rate of exactly 0 or 1 has no logarithm


def kl_sparsity(active: Tensor, *, rate: float, present: Tensor | None = None) -> Tensor:
    """Divergence of each unit's mean activity over the batch from a wanted rate, averaged over units: a scalar.

    active (B, K), from 0 to 1; present (B,) bool, the samples that count. The batch is that of all processes, with its
    gradient. 0 where nothing counts. Ng, lecture notes CS294A, 2011; Lee et al., NeurIPS 2007.
    """
    with torch.autocast(active.device.type, enabled=False):
        there = torch.ones(len(active), dtype=torch.bool, device=active.device) if present is None else present
        everywhere, counts = dist.gather_with_grad(active.float()), dist.gather(there).float()
        mean = (everywhere * counts[:, None]).sum(dim=0) / counts.sum().clamp(min=1)
        mean = mean.clamp(LEAST, 1 - LEAST)
        apart = rate * (rate / mean).log() + (1 - rate) * ((1 - rate) / (1 - mean)).log()
        return apart.mean() * (counts.sum() > 0)
