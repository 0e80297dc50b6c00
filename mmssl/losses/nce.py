"""Noise-contrastive estimation: tell a query's own sample from samples drawn at random."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def nce(own: Tensor, noise: Tensor, log_z: Tensor | float, samples: int) -> Tensor:
    """Binary cross-entropy of telling a query's own sample from m that are drawn from all samples alike.

    own (B,), noise (B, m): similarities over the temperature. log_z: logarithm of what exp of a query's similarities to
    all samples sums to. samples: how many there are. Returns (B,), float32, summed over the m.
    Gutmann & Hyvärinen, AISTATS 2010; over instances: Wu et al., CVPR 2018.
    """
    with torch.autocast(own.device.type, enabled=False):
        shift = log_z + math.log(noise.shape[1] / samples)
        return -F.logsigmoid(own.float() - shift) - F.logsigmoid(shift - noise.float()).sum(dim=1)
