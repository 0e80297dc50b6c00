"""VICReg: two views' embeddings agree, every dimension varies, and no two dimensions vary together."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-4  # of the variance, which keeps its root's gradient finite


def vicreg(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance, variance and covariance terms of two views' embeddings (N, D), of the whole batch.

    Invariance is the mean squared difference. Variance is by how much standard deviations stay below 1, the mean
    over dimensions and views. Covariance is the sum of squares off the diagonal of each view's covariance, over D,
    both views' added. The authors' code scales them so. Three float32, 0 for fewer than two samples.
    Bardes et al., ICLR 2022.
    """
    with torch.autocast(one.device.type, enabled=False):
        one, other = one.float(), other.float()
        if len(one) < 2:
            nothing = (one.sum() + other.sum()) * 0
            return nothing, nothing, nothing
        variance = torch.stack([F.relu(1 - (x.var(dim=0) + EPSILON).sqrt()).mean() for x in (one, other)]).mean()
        return F.mse_loss(one, other), variance, _covariance(one) + _covariance(other)


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(dim=0)
    covariance = centred.T @ centred / (len(x) - 1)  # (D, D)
    return (covariance - torch.diag(covariance.diagonal())).square().sum() / x.shape[1]
