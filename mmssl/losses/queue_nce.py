"""InfoNCE against a queue: each query has its own key, and the negatives are the queue's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def queue_nce(queries: Tensor, keys: Tensor, queue: Tensor, *, scale: Tensor | float) -> Tensor:
    """Cross-entropy of finding key i for query i among it and the queue, one loss per query.

    queries (B, D), keys (B, D), queue (K, D): normalised by the caller where cosine is meant; scale: 1 / temperature.
    Returns (B,), float32. He et al., CVPR 2020 (MoCo).
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries = queries.float()
        own = (queries * keys.float()).sum(dim=1, keepdim=True)
        logits = scale * torch.cat([own, queries @ queue.float().T], dim=1)  # (B, 1 + K)
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long), reduction="none")
