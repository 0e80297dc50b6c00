"""Pairwise sigmoid loss: is this pair a match, asked of every pair on its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.losses.contrast import Contrast


def pairwise_sigmoid(contrast: Contrast, *, bias: Tensor | float) -> Tensor:
    """Sums -log sigmoid(z (scale q.k + bias)) over the keys that count, z = 1 for a positive pair and -1 else.

    Returns one loss per query (..., B), float32; SigLIP's loss is their mean. Zhai et al., ICCV 2023 (SigLIP).

    bias: of all scores; a low one, since most pairs do not match.
    """
    sums, own = contrast.softplus_sums(bias)
    if contrast.many:
        return sums
    counting, matching = contrast.counting, F.softplus(-own).sum(dim=-1)
    return sums + (matching if counting is None else torch.where(counting, matching, 0.0))
