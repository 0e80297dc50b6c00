"""Cross-entropy with labels of which some are not known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def labelled(logits: Tensor, labels: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compares logits (B, C) with labels (B,), below 0 where none is known.

    Returns each sample's cross-entropy (B,) float32; which ones count, of those that are present; and how each was
    answered, 1, 0 or NaN for one that does not count.
    """
    counted, sought = present & (labels >= 0), labels.clamp(min=0)
    losses = F.cross_entropy(logits.float(), sought, reduction="none")
    correct = (logits.argmax(dim=1) == sought).float().masked_fill(~counted, torch.nan)
    return losses, counted, correct


def soft_cross_entropy(scores: Tensor, taught: Tensor, *, temperature: float) -> Tensor:
    """Returns the cross-entropy (B,) float32 of the softmax of scores (B, C) with that of a teacher's, (B, C).

    temperature: both are divided by it. The teacher gets no gradient. Hinton et al., 2015.
    """
    target = (taught.detach().float() / temperature).softmax(dim=1)
    return F.cross_entropy(scores.float() / temperature, target, reduction="none")
