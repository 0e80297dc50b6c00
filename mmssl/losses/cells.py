"""How well the cells of two views agree where they show the same place."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import mil_nce


def cell_agreement(mine: Tensor, taught: Tensor, near: Tensor) -> Tensor:
    """Minus the mean cosine of the pairs of cells that match, (B,) float32, 0 where none do.

    mine (B, N, D), taught (B, M, D), which gets no gradient. near: (B, N, M) bool, the pairs that match.
    Xie et al., CVPR 2021 (PixPro).
    """
    with torch.autocast(mine.device.type, enabled=False):
        cosines = F.normalize(mine.float(), dim=2) @ F.normalize(taught.detach().float(), dim=2).mT
    return -(cosines * near).sum((1, 2)) / near.sum((1, 2)).clamp(min=1)


def cell_contrast(mine: Tensor, taught: Tensor, near: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE of each cell's matches, taken together, among all cells of the other view of its image, (B,) float32.

    It is the mean over the cells that match any, 0 where none do; the rest as cell_agreement has it.
    Xie et al., CVPR 2021 (PixContrast).
    """
    queries, keys = F.normalize(mine.float(), dim=2), F.normalize(taught.detach().float(), dim=2)
    losses = mil_nce(Contrast(queries, keys, 1 / temperature, positives=near))
    return losses.sum(dim=1) / near.any(dim=2).sum(dim=1).clamp(min=1)
