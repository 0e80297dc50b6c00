"""Cross-entropy where the right answer at each place is shared by a few classes."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_nll(logits: Tensor, classes: Tensor, shares: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of logits (B, K, H, W) for the shares (B, k, H, W) of k classes, averaged over places: (B,).

    classes (B, k, H, W): whole numbers; all others' shares are 0, so that no target over all K need be held.
    weight (B, H, W): what each place counts. In float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        found = (logits.float().log_softmax(dim=1).gather(1, classes) * shares).sum(dim=1)  # (B, H, W)
        return -(weight * found).mean((1, 2))
