"""Cross-entropy where the right answer is shared by a few classes."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_nll(logits: Tensor, classes: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of logits (B, K, ...) for the shares (B, k, ...) of the k classes (B, k, ...): (B, ...), float32.

    The other classes' shares are 0, so that a target over all K need not be held.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return -(logits.float().log_softmax(dim=1).gather(1, classes) * shares).sum(dim=1)
