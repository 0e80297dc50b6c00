"""Fixed codes of places, made of sines and cosines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from mmssl.errors import UserError


def sincos(dim: int, grid: Sequence[int]) -> Tensor:
    """Returns the code (N, dim) of each cell of a grid (L,), (H, W) or (T, H, W), row by row.

    Of an image the first half of the channels tells the column and the second the row, as in MAE (He et al., CVPR
    2022); of a video the first half is the image's code and the second tells the time.
    """
    least = 2 ** len(grid)
    if dim % least:
        raise UserError(f"the places of a grid of {len(grid)} axes need a width that {least} divides; found {dim}")
    if len(grid) == 1:
        rates = 10000 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
        angles = torch.arange(grid[0], dtype=torch.float64)[:, None] * rates  # (L, D / 2)
        return torch.cat([angles.sin(), angles.cos()], dim=1).float()
    within = sincos(dim // 2, grid[1:]).repeat(grid[0], 1)
    return torch.cat([within, sincos(dim // 2, grid[:1]).repeat_interleave(prod(grid[1:]), dim=0)], dim=1)


@lru_cache(maxsize=64)
def sincos_on(dim: int, grid: tuple[int, ...], device: torch.device) -> Tensor:
    """Returns `sincos` on a device, copied there once; shared, so nobody may change it."""
    with torch.inference_mode(False):  # or a gradient could not be taken through it later
        return sincos(dim, grid).to(device)
