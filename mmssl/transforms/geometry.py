"""Batches of pictures turned, sheared, scaled and moved on the device, each by amounts of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(x: Tensor, matrix: Tensor, *, fill: float | None = None) -> Tensor:
    """Samples pictures (B, C, H, W) where the affine maps matrix (B, 2, 3) point, in units of half a side.

    A map takes a place of the result to one of the picture, both from -1 to 1. What lies outside is mirrored, or has
    the value `fill`.
    """
    height, width = x.shape[2:]
    shape = torch.tensor([[1.0, height / width], [width / height, 1.0]]).to(x.device, non_blocking=True)
    matrix = torch.cat([matrix[:, :, :2] * shape, matrix[:, :, 2:]], dim=2)  # turns, not skews, where W is not H
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False).to(x.dtype)
    if fill is None:
        return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    return F.grid_sample(x - fill, grid, padding_mode="zeros", align_corners=False) + fill


def rotation(angles: Tensor) -> Tensor:
    """Returns maps (B, 2, 3) that turn by angles (B,) in degrees, counted against the clock."""
    cos, sin = torch.deg2rad(angles).cos(), torch.deg2rad(angles).sin()
    none = torch.zeros_like(cos)
    return torch.stack([cos, -sin, none, sin, cos, none], dim=1).view(-1, 2, 3)


def rotate(x: Tensor, *, degrees: float) -> Tensor:
    """Turns each picture (B, C, H, W) by up to so many degrees either way; corners are filled by mirroring."""
    return warp(x, rotation(torch.empty(len(x), device=x.device).uniform_(-degrees, degrees)))
