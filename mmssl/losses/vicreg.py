"""VICReg: two views' embeddings agree, every dimension varies, and no two dimensions vary together."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.losses.barlow import centre

EPSILON = 1e-4  # of the variance, which keeps its root's gradient finite


def vicreg(one: Tensor, other: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance, variance and covariance terms of two views' embeddings (N, D), of the whole batch.

    Invariance is the mean squared difference. Variance is by how much standard deviations stay below 1, the mean
    over dimensions and views. Covariance is the sum of squares off the diagonal of each view's covariance, over D,
    both views' added. The authors' code scales them so. Three float32, 0 for fewer than two samples.
    present: (N,) bool, samples that count; by default all.
    Bardes et al., ICLR 2022.
    """
    with torch.autocast(one.device.type, enabled=False):
        there = one.new_ones(len(one), dtype=torch.bool) if present is None else present
        count = there.sum()
        views = [centre(x.float(), there, count.clamp(min=1)) for x in (one, other)]
        covariances = [x.T @ x / (count - 1).clamp(min=1) for x in views]  # (D, D)
        deviations = torch.stack([(x.diagonal() + EPSILON).sqrt() for x in covariances])
        apart = (one.float() - other.float()).square().mean(dim=1)
        terms = (
            apart.where(there, 0.0).sum() / count.clamp(min=1),
            F.relu(1 - deviations).mean(),
            _off_diagonal(covariances[0]) + _off_diagonal(covariances[1]),
        )
        return terms[0].where(count > 1, 0.0), terms[1].where(count > 1, 0.0), terms[2].where(count > 1, 0.0)


def _off_diagonal(covariance: Tensor) -> Tensor:
    return (covariance - torch.diag(covariance.diagonal())).square().sum() / len(covariance)
