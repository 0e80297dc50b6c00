"""Barlow Twins: two views' embeddings agree dimension by dimension, and each dimension says something else."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-5  # of the variance, as BatchNorm has it


def barlow(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """How far the cross-correlation (D, D) of two views lies from the identity: on its diagonal, and off it.

    one, other: embeddings (N, D) of any length, of the whole batch. Returns two sums of squares, float32, 0 for
    fewer than two samples. Zbontar et al., ICML 2021.
    """
    with torch.autocast(one.device.type, enabled=False):
        if len(one) < 2:
            return one.float().sum() * 0, other.float().sum() * 0
        correlation = _standard(one.float()).T @ _standard(other.float()) / len(one)
        diagonal = correlation.diagonal()
        off = correlation - torch.diag(diagonal)
        return (diagonal - 1).square().sum(), off.square().sum()


def _standard(x: Tensor) -> Tensor:
    """Brings every dimension of (N, D) to mean 0 and variance 1."""
    centred = x - x.mean(dim=0)
    return centred * (centred.square().mean(dim=0) + EPSILON).rsqrt()
