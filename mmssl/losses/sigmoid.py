"""Pairwise sigmoid loss: is this pair a match, asked of every pair on its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pairwise_sigmoid(
    queries: Tensor,
    keys: Tensor,
    *,
    scale: Tensor | float,
    bias: Tensor | float,
    positives: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Sums -log sigmoid(z (scale q.k + bias)) over the keys, z = 1 for a positive pair and -1 else.

    queries (B, D), keys (N, D), positives (B,) index or (B, N) bool, by default query i's is key i;
    keep: (N,) bool, keys that exist. Returns one loss per query (B,), float32; SigLIP's loss is their mean.
    Zhai et al., ICCV 2023 (SigLIP).
    """
    with torch.autocast(queries.device.type, enabled=False):
        logits = scale * (queries.float() @ keys.float().T) + bias  # (B, N)
        if positives is None:
            positives = torch.arange(len(queries), device=queries.device)
        if positives.dtype != torch.bool:
            positives = F.one_hot(positives, len(keys)).bool()
        losses = F.softplus(torch.where(positives, -logits, logits))
        if keep is not None:
            losses = losses * keep
        return losses.sum(dim=1)
