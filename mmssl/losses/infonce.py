"""InfoNCE: pick each query's positives among keys."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MISSING = -1e30  # finite, so that a row whose every key is missing has no NaN in its gradient


def info_nce(
    queries: Tensor,
    keys: Tensor,
    *,
    scale: Tensor | float,
    positives: Tensor | None = None,
    negatives: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of finding each query's positives among all keys by dot product, one loss per query.

    queries (B, D), keys (N, D): normalised by the caller where cosine is meant. scale: 1 / temperature.
    positives: (B,) index of the one positive key, by default query i's is key i; or (B, N) bool, several
        positives per query: the mean over them of -log p, as in SupCon's L_out (Khosla et al., NeurIPS 2020).
    negatives: (M, D), further keys that are never positive (a queue). keep: (N,) bool, keys that exist.
    Returns (B,) in float32; a query without any positive that is kept gives 0.
    van den Oord et al., 2018 (CPC); one direction of CLIP (Radford et al., ICML 2021).
    """
    with torch.autocast(queries.device.type, enabled=False):
        logits = scale * (queries.float() @ keys.float().T)  # (B, N)
        if keep is not None:
            logits = logits.masked_fill(~keep, MISSING)
        if negatives is not None:
            logits = torch.cat([logits, scale * (queries.float() @ negatives.float().T)], dim=1)
        if positives is None:
            positives = torch.arange(len(queries), device=queries.device)
        if positives.dtype == torch.bool:
            return _several(logits, positives if keep is None else positives & keep)
        losses = F.cross_entropy(logits, positives, reduction="none")
        return losses if keep is None else torch.where(keep[positives], losses, 0.0)


def _several(logits: Tensor, positives: Tensor) -> Tensor:
    log_p = logits - logits.logsumexp(dim=1, keepdim=True)
    chosen = torch.where(positives, log_p[:, : positives.shape[1]], 0.0)
    return -chosen.sum(dim=1) / positives.sum(dim=1).clamp(min=1)
