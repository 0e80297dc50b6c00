"""Local-global mutual information: tell the cells of a sample from those of others by its summary."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.losses.contrast import Contrast, gathered
from mmssl.losses.infonce import info_nce

Measure = Literal["jsd", "infonce"]


def local_global(
    cells: Tensor, summaries: Tensor, *, measure: Measure = "jsd", present: Tensor | None = None
) -> Tensor:
    """Minus a lower bound on the mutual information of summaries (B, D) and cells (B, N, D), scored by dot product.

    The cells of all processes' other samples are the negatives, with their gradient. Returns (B,), float32; 0 for an
    absent sample. Hjelm et al., ICLR 2019 (DIM).

    measure: jsd, the Jensen-Shannon divergence of matching and other pairs, or infonce, each cell found among it and
        all negatives.
    present: (B,) bool, samples that count; by default all.
    """
    there = torch.ones(len(cells), dtype=torch.bool, device=cells.device) if present is None else present
    everywhere, count = gathered(cells, there), cells.shape[1]
    assert everywhere.keep is not None
    others = Contrast(
        summaries,
        everywhere.rows.flatten(0, 1),  # (world B N, D)
        own=everywhere.own[:, None] * count + torch.arange(count, device=cells.device),  # (B, N)
        keep=everywhere.keep.repeat_interleave(count),
    )
    losses = info_nce(others) if measure == "infonce" else _jsd(others, count * (everywhere.keep.sum() - 1))
    return torch.where(there, losses, 0.0)


def _jsd(contrast: Contrast, negatives: Tensor) -> Tensor:
    """Minus the bound, from this many negatives each: those that do not count add nothing to the sum."""
    sums, own = contrast.softplus_sums()
    matching = math.log(2) - F.softplus(-own).mean(dim=1)
    others = sums / negatives.clamp(min=1) - math.log(2) * (negatives > 0)
    return others - matching
