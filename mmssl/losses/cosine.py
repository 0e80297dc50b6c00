"""Negative cosine: point the way that the other view's target points."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def negative_cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """Minus the cosine between predictions and targets (B, D) of any length, (B,) float32, from -1 to 1.

    Targets get no gradient. The squared distance of the two at unit length is 2 + 2 times it, as BYOL has it (Grill
    et al., NeurIPS 2020). Chen & He, CVPR 2021 (SimSiam).
    """
    return -F.cosine_similarity(predictions.float(), targets.detach().float(), dim=1)  # which autocast leaves as it is
