"""Local-global mutual information: tell the cells of a sample from those of others by its summary."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.losses.infonce import MISSING

Measure = Literal["jsd", "infonce"]


def local_global(
    cells: Tensor, summaries: Tensor, *, measure: Measure = "jsd", present: Tensor | None = None
) -> Tensor:
    """Minus a lower bound on the mutual information of summaries (B, D) and cells (B, N, D), scored by dot product.

    The cells of all processes' other samples are the negatives, with their gradient. measure: jsd, the Jensen-Shannon
    divergence of matching and other pairs, or infonce, each cell found among it and all negatives. present: (B,) bool,
    samples that count. Returns (B,), float32; 0 for an absent sample. Hjelm et al., ICLR 2019 (DIM).
    """
    with torch.autocast(cells.device.type, enabled=False):
        cells, summaries = cells.float(), summaries.float()
        there = torch.ones(len(cells), dtype=torch.bool, device=cells.device) if present is None else present
        scores = torch.einsum("bd,cnd->bcn", summaries, dist.gather_with_grad(cells))  # (B, world B, N)
        rows = torch.arange(len(cells), device=cells.device)
        own = rows + dist.rank() * len(cells)
        others = dist.gather(there).expand(len(cells), -1).scatter(1, own[:, None], False)  # (B, world B)
        matching = scores[rows, own]  # (B, N)
        losses = (_jsd if measure == "jsd" else _infonce)(matching, scores, others)
        return torch.where(there, losses, 0.0)


def _jsd(matching: Tensor, scores: Tensor, others: Tensor) -> Tensor:
    pulled = math.log(2) - F.softplus(-matching).mean(dim=1)
    apart = (F.softplus(scores).mean(dim=2) - math.log(2)) * others
    return apart.sum(dim=1) / others.sum(dim=1).clamp(min=1) - pulled


def _infonce(matching: Tensor, scores: Tensor, others: Tensor) -> Tensor:
    against = scores.masked_fill(~others[:, :, None], MISSING).flatten(1).logsumexp(dim=1, keepdim=True)
    return F.softplus(against - matching).mean(dim=1)
