"""How well masks agree with the truth: region similarity J and boundary accuracy F, as DAVIS measures them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def jaccard(masks: Tensor, truth: Tensor) -> Tensor:
    """Returns the intersection over union of masks (N, H, W) bool; of two empty ones 1. Perazzi et al., CVPR 2016."""
    union = (masks | truth).sum(dim=(1, 2))
    both = (masks & truth).sum(dim=(1, 2))
    return torch.where(union > 0, both / union.clamp(min=1), 1.0)


def boundary(masks: Tensor, truth: Tensor, *, tolerance: float = 0.008) -> Tensor:
    """Returns the F-measure of the outlines of masks (N, H, W) bool, (N,).

    An outline's pixel is right if the other has one within `tolerance` of the diagonal, rounded up to whole pixels.
    One mask empty scores 0, both 1. Perazzi et al., CVPR 2016; the details are those of the DAVIS 2017 evaluation.
    """
    radius = math.ceil(tolerance * math.hypot(*masks.shape[1:]))
    mine, theirs = outline(masks), outline(truth)
    precision, recall = _share(mine, _widened(theirs, radius)), _share(theirs, _widened(mine, radius))
    none, empty = mine.sum(dim=(1, 2)) == 0, theirs.sum(dim=(1, 2)) == 0
    precision = torch.where(none, 1.0, precision)
    recall = torch.where(empty, 1.0, recall)
    return 2 * precision * recall / (precision + recall).clamp(min=1e-12)


def outline(masks: Tensor) -> Tensor:
    """Returns the pixels that differ from their right, lower or lower right neighbour, (N, H, W) bool."""
    inside = F.pad(masks.float()[:, None], (0, 1, 0, 1), mode="replicate")[:, 0].bool()
    here = inside[:, :-1, :-1]
    return (here ^ inside[:, :-1, 1:]) | (here ^ inside[:, 1:, :-1]) | (here ^ inside[:, 1:, 1:])


def _widened(maps: Tensor, radius: int) -> Tensor:
    """Returns the pixels within `radius` of one that is set."""
    reach = torch.arange(-radius, radius + 1, device=maps.device)
    disk = (reach[:, None] ** 2 + reach**2 <= radius**2).float()
    return F.conv2d(maps.float()[:, None], disk[None, None], padding=radius)[:, 0] > 0.5


def _share(found: Tensor, near: Tensor) -> Tensor:
    return (found & near).sum(dim=(1, 2)) / found.sum(dim=(1, 2)).clamp(min=1)
