"""Swapped prediction: predict from each view how another view of the sample was assigned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def swapped_prediction(scores: Sequence[Tensor], assignments: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Cross-entropy of each view's scores (B, K) against the soft assignments (B, K) of every other view.

    assignments: of the first views, in order. Returns (B,), float32: the mean over all pairs of an assigned view and
    another one. Caron et al., NeurIPS 2020 (SwAV).
    """
    with torch.autocast(scores[0].device.type, enabled=False):
        predicted = [(view.float() / temperature).log_softmax(dim=1) for view in scores]
        pairs = [(given, log) for i, given in enumerate(assignments) for v, log in enumerate(predicted) if v != i]
        return torch.stack([-(given.detach().float() * log).sum(dim=1) for given, log in pairs]).mean(dim=0)
