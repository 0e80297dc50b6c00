"""Batches of images turned, sheared, scaled and moved on the device, each by amounts of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.numerics.color import as_unit
from mmssl.numerics.constants import constant
from mmssl.schema import at_least
from mmssl.transforms.base import OnDevice


def warp(x: Tensor, matrix: Tensor, *, fill: float | None = None) -> Tensor:
    """Samples images (B, C, H, W) where the affine maps matrix (B, 2, 3) point, in units of half a side.

    A map takes a place of the result to one of the image, both from -1 to 1. What lies outside is mirrored, or has
    the value `fill`.
    """
    grid = F.affine_grid(_in_shape(matrix, x.shape[2:]), list(x.shape), align_corners=False).to(x.dtype)
    if fill is None:
        return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    return F.grid_sample(x - fill, grid, padding_mode="zeros", align_corners=False) + fill


def _in_shape(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Returns the maps as pixels of a shape (H, W) have them: they turn, and do not skew, where W is not H."""
    height, width = shape
    stretch = constant(((1.0, height / width), (width / height, 1.0)), matrix.device)
    return torch.cat([matrix[:, :, :2] * stretch, matrix[:, :, 2:]], dim=2)


def unit_map(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Returns the maps (B, 2, 3) of `warp`, whose places run from -1 to 1, for places from 0 to 1."""
    matrix = _in_shape(matrix, shape)
    turn, shift = matrix[:, :, :2], matrix[:, :, 2:]
    return torch.cat([turn, (shift + 1 - turn.sum(dim=2, keepdim=True)) / 2], dim=2)


def rotation(angles: Tensor) -> Tensor:
    """Returns maps (B, 2, 3) that turn by angles (B,) in degrees, counted against the clock."""
    cos, sin = torch.deg2rad(angles).cos(), torch.deg2rad(angles).sin()
    none = torch.zeros_like(cos)
    return torch.stack([cos, -sin, none, sin, cos, none], dim=1).view(-1, 2, 3)


def rotate(x: Tensor, *, degrees: float) -> tuple[Tensor, Tensor]:
    """Turns each image (B, C, H, W) by up to this many degrees either way; corners are filled by mirroring.

    Returns the images and the maps (B, 2, 3), in 0 to 1, from what they show to what was given.
    """
    matrix = rotation(torch.empty(len(x), device=x.device).uniform_(-degrees, degrees))
    return warp(x, matrix), unit_map(matrix, x.shape[2:])


@dataclass(kw_only=True)
class Rotate(OnDevice):
    """Turns images, filling the corners by mirroring; there, what moves with them is 0: background, not measured.

    degrees: the most, either way.
    """

    modalities = ("image",)
    degrees: Annotated[float, at_least(0)] = 20.0

    def on_device(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return rotate(as_unit(x), degrees=self.degrees)

    def active(self) -> bool:
        return self.degrees > 0

    def varies(self) -> bool:
        return self.degrees > 0
