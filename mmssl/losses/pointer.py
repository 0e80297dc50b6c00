"""Pointers: copy a label from the keys that a query points at."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl.losses.contrast import Contrast, chunked, scores
from mmssl.numerics.missing import MISSING


def pointer_nll(queries: Tensor, keys: Tensor, key_labels: Tensor, labels: Tensor, *, scale: Tensor | float) -> Tensor:
    """Negative log-likelihood of each query's label, where p(label) is the attention that the keys with it receive.

    queries (B, N, D) attend by softmax(scale q.k) to keys (B, M, D) of the same sample; key_labels (B, M) and labels
    (B, N) are whole numbers. Returns (B, N) in float32; 0 for a query whose label no key has.
    Vondrick et al., ECCV 2018. The attention is a softmax already, so its logarithm is taken, not another softmax.
    """

    def part(some: Tensor, wanted: Tensor) -> Tensor:
        return _nll(Contrast(some, keys, scale, positives=wanted[:, :, None] == key_labels[:, None]))

    return chunked(part, queries, labels, keys=keys.shape[1])


def _nll(contrast: Contrast) -> Tensor:
    logits, right = contrast.logits, contrast.matches  # (B, n, M)
    losses = logits.logsumexp(dim=2) - logits.masked_fill(~right, MISSING).logsumexp(dim=2)
    return torch.where(right.any(dim=2), losses, 0.0)


@torch.no_grad()
def pointed(queries: Tensor, keys: Tensor, values: Tensor, *, scale: Tensor | float) -> Tensor:
    """Returns what each query (B, N, D) copies: the values (B, M, C) of the keys, weighted by softmax(scale q.k)."""
    with torch.autocast(queries.device.type, enabled=False):
        values = values.float()
        return chunked(lambda some: scores(some, keys, scale).softmax(dim=2) @ values, queries, keys=keys.shape[1])
