"""Noise-contrastive estimation: tell a query's own sample from samples drawn at random."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from mmssl.losses.contrast import Contrast


def nce(contrast: Contrast, log_z: Tensor | float, samples: int) -> Tensor:
    """Binary cross-entropy of telling a query's own key from m keys that are drawn from all samples alike.

    Returns (B,), float32, summed over the m. Gutmann & Hyvärinen, AISTATS 2010; over instances: Wu et al., CVPR 2018.

    contrast: with one own key for each query; its keys are the noise.
    log_z: logarithm of what exp of a query's scores of all samples sums to.
    samples: how many there are.
    """
    shift = log_z + math.log(len(contrast.keys) / samples)
    noise, own = contrast.softplus_sums(-shift)
    return noise + F.softplus(-own).sum(dim=1)
