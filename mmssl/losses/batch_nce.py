"""InfoNCE within a batch: find a query's own key among the keys of all samples."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl import dist
from mmssl.losses.infonce import info_nce


def batch_nce(queries: Tensor, keys: Tensor, *, temperature: float, present: Tensor) -> Tensor:
    """Cross-entropy of picking key i for query i among the keys of all processes, which get their gradient.

    queries, keys (B, D): of unit length where cosine is meant. present: (B,) bool, samples that count.
    Returns (B,), float32; 0 for an absent one.
    """
    own = torch.arange(len(queries), device=queries.device) + dist.rank() * len(queries)
    everywhere, keep = dist.gather_with_grad(keys), dist.gather(present)
    return info_nce(queries, everywhere, scale=1 / temperature, positives=own, keep=keep)
