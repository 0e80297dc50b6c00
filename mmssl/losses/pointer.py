"""Pointers: copy a label from the keys that a query points at."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.losses.contrast import Contrast

HELD = 2**25  # weights of keys that `pointed` holds at a time


def pointer_nll(queries: Tensor, keys: Tensor, key_labels: Tensor, labels: Tensor, *, scale: Tensor | float) -> Tensor:
    """Negative log-likelihood of each query's label, where p(label) is the attention that the keys with it receive.

    queries (B, N, D) attend by softmax(scale q.k) to keys (B, M, D) of the same sample; key_labels (B, M) and labels
    (B, N) are whole numbers. Returns (B, N) in float32; 0 for a query whose label no key has.
    Vondrick et al., ECCV 2018. The attention is a softmax already, so its logarithm is taken, not another softmax.
    """
    sums = Contrast(queries, keys, scale, labels=(labels, key_labels)).log_sums
    assert sums.positive is not None
    return torch.where(sums.positive.number > 0, F.softplus(sums.others - sums.positive.log_sum), 0.0)


@torch.no_grad()
def pointed(queries: Tensor, keys: Tensor, values: Tensor, *, scale: Tensor | float) -> Tensor:
    """Returns what each query (B, N, D) copies: the values (B, M, C) of the keys, weighted by softmax(scale q.k)."""
    with torch.autocast(queries.device.type, enabled=False):
        keys, values = keys.float().mT, values.float()
        parts = queries.split(max(1, HELD // (len(queries) * keys.shape[2])), dim=1)
        return torch.cat([(scale * some.float() @ keys).softmax(dim=2) @ values for some in parts], dim=1)
