"""Pointers: copy a label from the keys that a query points at."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MISSING = -1e30  # finite, so that a query that no key can answer has no NaN in its gradient
HELD = 2**25  # similarities held at a time; beyond, they are computed again for the gradient


def pointer_nll(queries: Tensor, keys: Tensor, key_labels: Tensor, labels: Tensor, *, scale: Tensor | float) -> Tensor:
    """Negative log-likelihood of each query's label, where p(label) is the attention that the keys with it receive.

    queries (B, N, D) attend by softmax(scale q.k) to keys (B, M, D) of the same sample; key_labels (B, M) and labels
    (B, N) are whole numbers. Returns (B, N) in float32; 0 for a query whose label no key has.
    Vondrick et al., ECCV 2018. The attention is a softmax already, so its logarithm is taken, not another softmax.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys, scale = queries.float(), keys.float(), torch.as_tensor(scale, device=queries.device)
        rows = max(1, HELD // (len(keys) * keys.shape[1]))
        if rows >= queries.shape[1]:
            return _nll(queries, keys, key_labels, labels, scale)
        parts = zip(queries.split(rows, dim=1), labels.split(rows, dim=1), strict=True)
        again = [checkpoint(_nll, q, keys, key_labels, wanted, scale, use_reentrant=False) for q, wanted in parts]
        return torch.cat(again, dim=1)


def _nll(queries: Tensor, keys: Tensor, key_labels: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    logits = scale * (queries @ keys.mT)  # (B, n, M)
    right = labels[:, :, None] == key_labels[:, None]
    losses = logits.logsumexp(dim=2) - logits.masked_fill(~right, MISSING).logsumexp(dim=2)
    return torch.where(right.any(dim=2), losses, 0.0)


@torch.no_grad()
def pointed(queries: Tensor, keys: Tensor, values: Tensor, *, scale: Tensor | float) -> Tensor:
    """Returns what each query (B, N, D) copies: the values (B, M, C) of the keys, weighted by softmax(scale q.k)."""
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = queries.float(), keys.float()
        rows = max(1, HELD // (len(keys) * keys.shape[1]))
        parts = [(scale * (q @ keys.mT)).softmax(dim=2) @ values.float() for q in queries.split(rows, dim=1)]
        return torch.cat(parts, dim=1)
