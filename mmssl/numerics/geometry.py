"""Affine maps between views and their source, and which cells of two views show the same place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Affine = NDArray[np.float32]


def cell_centers(grid: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
    """Returns the centres of a grid's cells in 0 to 1, (N, axes): x, y of (H, W), and x, y, t of (T, H, W)."""
    axes = [(torch.arange(cells, device=device) + 0.5) / cells for cells in grid]
    return torch.stack([line.flatten() for line in torch.meshgrid(*axes, indexing="ij")[::-1]], dim=1)


def apply(place: Tensor, points: Tensor) -> Tensor:
    """Maps points (N, D) or (B, N, D) by affine maps (B, D, D + 1): (B, N, D)."""
    return (points[..., None, :] * place[:, None, :, :-1]).sum(dim=-1) + place[:, None, :, -1]


def compose(first: Tensor, then: Tensor) -> Tensor:
    """Returns the maps (B, D, D + 1) that do `first` and then `then`."""
    matrix, shift = _product(then[:, :, :-1], first).split([first.shape[1], 1], dim=2)
    return torch.cat([matrix, shift + then[:, :, -1:]], dim=2)


def inverse(place: Tensor) -> Tensor:
    """Returns the maps (B, D, D + 1) backwards; each must have one."""
    matrix = inverted(place[:, :, :-1])
    return torch.cat([matrix, -_product(matrix, place[:, :, -1:])], dim=2)


def inverted(matrix: Tensor) -> Tensor:
    """Returns the inverses of matrices (B, D, D), D 2 or 3, by their cofactors: a few launches on a device, no wait."""
    if matrix.shape[1] == 2:
        (a, b), (c, d) = (row.unbind(1) for row in matrix.unbind(1))
        cofactors = torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2)
        return cofactors / (a * d - b * c)[:, None, None]
    one, two, three = matrix.unbind(1)
    columns = [torch.linalg.cross(*rows) for rows in ((two, three), (three, one), (one, two))]
    return torch.stack(columns, dim=2) / (one * columns[0]).sum(dim=1)[:, None, None]


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Multiplies small matrices (B, I, K) and (B, K, J) exactly; a run's half precision would round those of `@`."""
    return (one[:, :, :, None] * other[:, None]).sum(dim=2)


def same_place(
    one: Tensor, other: Tensor, *, grid: Sequence[int], other_grid: Sequence[int] | None = None, radius: float = 0.7
) -> Tensor:
    """Returns which cells of two views show the same place of the source: (B, N, N') bool.

    one, other: the views' places, (B, 2, 3) of images, (B, 3, 4) of videos.
    grid, other_grid: of cells, (H, W) or (T, H, W); the second by default like the first.
    radius: the most that centres may lie apart, in diagonals of the larger of the two cells; in time, in its duration.
    Xie et al., CVPR 2021 (PixPro).
    """
    grids = grid, other_grid or grid
    one, other = one.float(), other.float()
    places = [apply(place, cell_centers(g, device=place.device)) for place, g in zip((one, other), grids, strict=True)]
    sizes = [_cell_size(place, g) for place, g in zip((one, other), grids, strict=True)]
    largest = torch.stack(sizes).amax(dim=0)  # (B, 1 or 2)
    exact = "donot_use_mm_for_euclid_dist"  # products of matrices lose tenths of a pixel
    apart = torch.cdist(places[0][..., :2], places[1][..., :2], compute_mode=exact)
    near = apart <= radius * largest[:, :1, None]
    if len(grid) == 3:
        near &= (places[0][..., 2:] - places[1][..., 2:].mT).abs() <= radius * largest[:, 1:, None]
    return near


def _cell_size(place: Tensor, grid: Sequence[int]) -> Tensor:
    """Returns the diagonal of a view's cells in the source, and of videos their duration: (B, 1 or 2)."""
    height, width = grid[-2:]
    right, down = place[:, :2, 0] / width, place[:, :2, 1] / height  # steps of one cell
    diagonal = torch.cat([right, down], dim=1).norm(dim=1)
    return torch.stack([diagonal, *([place[:, 2, 2].abs() / grid[0]] if len(grid) == 3 else [])], dim=1)


def sliding_windows(side: float, step: float, *, device: torch.device | str = "cpu") -> Tensor:
    """Returns all square windows of a view, a step apart, as (K, 4): left, top, right, bottom, 0 to 1 as side and step.

    As many as lie in the view; they begin in its upper left corner.
    """
    starts = torch.arange(int((1 - side) / step + 1e-6) + 1, device=device) * step
    top, left = (line.flatten() for line in torch.meshgrid(starts, starts, indexing="ij"))
    return torch.stack([left, top, left + side, top + side], dim=1)


def boxes_between(boxes: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Returns boxes (K, 4) of one view in the coordinates of the other, 0 to 1 and beyond: (B, K, 4).

    one, other: the views' places (B, 2, 3). Of turned views it is what encloses a box.
    """
    left, top, right, bottom = boxes.unbind(dim=1)
    corners = torch.stack([left, top, right, top, left, bottom, right, bottom], dim=1).view(-1, 2)  # (4 K, 2)
    moved = apply(inverse(other.float()), apply(one.float(), corners.expand(len(one), -1, -1)))
    moved = moved.unflatten(1, (-1, 4))
    return torch.cat([moved.amin(dim=2), moved.amax(dim=2)], dim=2)
