"""NT-Xent: find a sample's other view among all views of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl.losses.contrast import Contrast, gathered
from mmssl.losses.infonce import info_nce


def nt_xent(one: Tensor, other: Tensor, *, temperature: float, present: Tensor | None = None) -> Tensor:
    """Cross-entropy of picking each view's partner among the batch's 2B - 1 other views, one loss per sample.

    The views of all processes are candidates, with their gradient. Returns (B,) float32, the mean of a sample's two
    views; 0 for an absent one. Chen et al., ICML 2020 (SimCLR).

    one, other: two views (B, D) of unit length.
    temperature: of the softmax.
    present: (B,) bool, samples that count; by default all.
    """
    first, second = gathered(one, present), gathered(other)
    half = len(first.rows)
    views = Contrast(
        torch.cat([one.float(), other.float()]),
        torch.cat([first.rows, second.rows]),  # (2 world B, D)
        1 / temperature,
        positives=torch.cat([first.own + half, first.own]),
        keep=None if first.keep is None else first.keep.repeat(2),
        exclude=torch.cat([first.own, first.own + half]),
    )
    return info_nce(views).view(2, -1).mean(dim=0)
