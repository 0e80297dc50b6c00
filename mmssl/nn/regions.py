"""Features of the regions of an image: how much of each cell a mask covers, and averages over what it covers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def mask_shares(mask: Tensor, ids: Tensor, grid: Sequence[int]) -> Tensor:
    """Returns what share of each cell of a grid (H, W) has each of some numbers of a mask: (B, K, N) float32.

    mask: (B, height, width) whole numbers. ids: (B, K), the numbers that are looked for in each image.
    """
    found = (mask[:, None] == ids[:, :, None, None]).float()  # (B, K, height, width)
    height, width = grid
    return F.adaptive_avg_pool2d(found, (height, width)).flatten(2)


def masked_mean(tokens: Tensor, shares: Tensor) -> Tensor:
    """Averages tokens (B, N, D), weighed by the shares of their cells (B, K, N): (B, K, D), zeros where all are 0.

    Henaff et al., ICCV 2021 (DetCon).
    """
    weights = shares / shares.sum(dim=2, keepdim=True).clamp(min=1e-6)
    return weights.to(tokens.dtype) @ tokens
