"""Where two crops of one image overlap, in the coordinates of either, and maps cut there."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

from mmssl.numerics.constants import constant
from mmssl.numerics.geometry import apply, inverse


def overlap(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the box (B, 4) of the source that two views both show, and its area (B,), 0 where there is none.

    one, other: the views' places (B, 2, 3), cut along the axes of the source.
    """
    corners = constant(((0.0, 0.0), (1.0, 1.0)), one.device)
    ends = [apply(place.float(), corners).sort(dim=1).values for place in (one, other)]
    start, end = torch.maximum(ends[0][:, 0], ends[1][:, 0]), torch.minimum(ends[0][:, 1], ends[1][:, 1])
    return torch.cat([start, end], dim=1), (end - start).clamp(min=0).prod(dim=1)


def cut_at(maps: Tensor, place: Tensor, box: Tensor, size: int) -> Tensor:
    """Cuts maps (B, C, H, W) of views at boxes (B, 4) of their source by RoIAlign: (B, C, size, size).

    What a mirrored view shows is cut as the source has it. place: of the views (B, 2, 3). He et al., ICCV 2017.
    """
    height, width = maps.shape[2:]
    inside = apply(inverse(place.float()), box.unflatten(1, (2, 2))).sort(dim=1).values
    rows = (inside * constant((float(width), float(height)), maps.device)).flatten(1)
    sample = torch.arange(len(maps), device=maps.device, dtype=rows.dtype)[:, None]
    cut: Tensor = roi_align(maps.float(), torch.cat([sample, rows], dim=1), size, aligned=True)
    return torch.where((place[:, 0, 0] < 0)[:, None, None, None], cut.flip(3), cut)
