"""Features of the regions of an image: which region each cell lies in, and averages over its cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def commonest(mask: Tensor, grid: Sequence[int], numbers: int) -> Tensor:
    """Returns which number of a mask most pixels of each cell of a grid (H, W) have, the least of equals: (B, N).

    mask: (B, height, width) whole numbers; from `numbers` - 1 on they count as one. Henaff et al., ICCV 2021 (DetCon).
    """
    height, width = mask.shape[1:]
    down, across = (
        torch.arange(pixels, device=mask.device) * cells // pixels
        for pixels, cells in zip((height, width), grid, strict=True)
    )
    cell = down[:, None] * grid[1] + across  # (height, width)
    index = (cell * numbers + mask.clamp(0, numbers - 1)).flatten(1)
    counts = torch.zeros(len(mask), grid[0] * grid[1] * numbers, device=mask.device)
    counts.scatter_add_(1, index, torch.ones_like(index, dtype=counts.dtype))
    return counts.unflatten(1, (-1, numbers)).argmax(dim=2)


def masked_mean(tokens: Tensor, shares: Tensor) -> Tensor:
    """Averages tokens (B, N, D), weighed by the shares of their cells (B, K, N): (B, K, D), zeros where all are 0.

    Henaff et al., ICCV 2021 (DetCon).
    """
    weights = shares / shares.sum(dim=2, keepdim=True).clamp(min=1e-6)
    return weights.to(tokens.dtype) @ tokens


def window_shares(windows: Tensor, grid: Sequence[int]) -> Tensor:
    """Returns what each cell of a grid (H, W) counts in the mean over a window: (B, K, N) float32, rows of sum 1.

    The mean is that of the map interpolated linearly between the cells' centres, as an exact integral.
    Jiang et al., ECCV 2018 (precise RoI pooling).

    windows: (B, K, 4), left, top, right, bottom, from 0 to 1 of the view.
    """
    left, top, right, bottom = windows.float().unbind(dim=2)
    rows, columns = _along(top, bottom, grid[0]), _along(left, right, grid[1])
    return (rows[..., :, None] * columns[..., None, :]).flatten(2)


def _along(start: Tensor, end: Tensor, cells: int) -> Tensor:
    """Returns the share of each cell of a line in what lies between start and end (B, K): (B, K, cells)."""
    centers = torch.arange(cells, device=start.device) + 0.5
    shares = _hat_integral(end[..., None] * cells - centers) - _hat_integral(start[..., None] * cells - centers)
    return shares / shares.sum(dim=2, keepdim=True)


def _hat_integral(x: Tensor) -> Tensor:
    """Integrates max(0, 1 - |x|) from -1 to x."""
    x = x.clamp(-1, 1)
    return 0.5 + x - x * x.abs() / 2
