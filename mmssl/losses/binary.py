"""Binary correspondence: does this pair belong together, yes or no."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def binary_correspondence(logits: Tensor, matches: Tensor) -> Tensor:
    """Cross-entropy of judging each pair as matching or not.

    logits: (B,) the log-odds of a match, or (B, 2) as L3-Net's last layer gives, class 1 the match;
    matches (B,) bool. Returns (B,), float32. Arandjelovic & Zisserman, ICCV 2017 (L3-Net).
    """
    if logits.ndim == 2:
        return F.cross_entropy(logits.float(), matches.long(), reduction="none")
    return F.binary_cross_entropy_with_logits(logits.float(), matches.float(), reduction="none")
