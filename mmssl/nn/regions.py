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
