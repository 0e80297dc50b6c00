"""Barlow Twins: two views' embeddings agree dimension by dimension, and each dimension says something else."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-5  # of the variance, as BatchNorm has it


def barlow(one: Tensor, other: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How far the cross-correlation (D, D) of two views lies from the identity: on its diagonal, and off it.

    one, other: embeddings (N, D) of any length, of the whole batch. present: (N,) bool, samples that count; by default
    all. Returns two sums of squares, float32, 0 for fewer than two samples. Zbontar et al., ICML 2021.
    """
    with torch.autocast(one.device.type, enabled=False):
        there = one.new_ones(len(one), dtype=torch.bool) if present is None else present
        count = there.sum()
        one, other = (_standard(x.float(), there, count.clamp(min=1)) for x in (one, other))
        correlation = one.T @ other / count.clamp(min=1)
        diagonal = correlation.diagonal()
        off = correlation - torch.diag(diagonal)
        terms = (diagonal - 1).square().sum(), off.square().sum()
        return terms[0].where(count > 1, 0.0), terms[1].where(count > 1, 0.0)


def _standard(x: Tensor, there: Tensor, count: Tensor) -> Tensor:
    """Brings every dimension of (N, D) to mean 0 and variance 1 over those there; the others become 0."""
    centred = centre(x, there, count)
    return centred * (centred.square().sum(dim=0) / count + EPSILON).rsqrt()


def centre(x: Tensor, there: Tensor, count: Tensor) -> Tensor:
    """Takes from every dimension of (N, D) its mean over those there (N,) bool, so many; the others become 0."""
    kept = x.where(there[:, None], 0.0)
    return (kept - kept.sum(dim=0) / count).where(there[:, None], 0.0)
