"""How unlikely pixels are under a distribution that lives on (0, 1), as pixels do."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MARGIN = 0.1  # pixels are kept so far from 0 and 1, where their logits have no end


def inside(x: Tensor) -> Tensor:
    """Moves pixels from [0, 1] a little inwards."""
    return (1 - 2 * MARGIN) * x + MARGIN


def outside(x: Tensor) -> Tensor:
    """Moves them back."""
    return (x - MARGIN) / (1 - 2 * MARGIN)


def logit_laplace(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Returns the negative log-likelihood of each value of x, in (0, 1), whose logit is Laplace; of the same shape.

    mean, log_scale: of the logit. Float32. Ramesh et al., ICML 2021.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, mean, log_scale = x.float(), mean.float(), log_scale.float()
        apart = (torch.logit(x) - mean).abs() * (-log_scale).exp()
        return apart + log_scale + math.log(2) + (x * (1 - x)).log()
