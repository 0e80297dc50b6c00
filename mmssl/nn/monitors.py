"""Signs of health and collapse, read off embeddings."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def monitors(embeddings: dict[str, Tensor]) -> dict[str, Tensor]:
    """Measures each modality's embeddings (B, D) and each pair of modalities, row i of all being one sample.

    std: mean over dimensions of the standard deviation of normalised embeddings, 1/sqrt(D) when spread
    evenly and 0 when collapsed. rank: effective rank (Roy & Vetterli, 2007; RankMe, Garrido et al., ICML 2023).
    alignment, uniformity: Wang & Isola, ICML 2020. gap: distance of the centroids (Liang et al., NeurIPS 2022).
    """
    logs: dict[str, Tensor] = {}
    normalised = {name: F.normalize(x.float(), dim=1) for name, x in embeddings.items() if len(x) > 1}
    for name, x in normalised.items():
        logs[f"{name}/std"] = x.std(dim=0).mean()
        logs[f"{name}/rank"] = effective_rank(x)
        logs[f"{name}/uniformity"] = uniformity(x)
    for (a, x), (b, y) in combinations(normalised.items(), 2):
        if x.shape == y.shape:
            logs[f"{a}-{b}/alignment"] = (x - y).square().sum(dim=1).mean()
            logs[f"{a}-{b}/gap"] = (x.mean(dim=0) - y.mean(dim=0)).norm()
    return logs


def effective_rank(x: Tensor) -> Tensor:
    """Returns exp of the entropy of the normalised singular values of (B, D): between 1 and min(B, D)."""
    values = torch.linalg.svdvals(x.float())
    p = values / values.sum().clamp(min=1e-12)
    return torch.exp(-(p * p.clamp(min=1e-12).log()).sum())


def uniformity(x: Tensor) -> Tensor:
    """Returns log mean exp(-2 |x_i - x_j|^2) over the pairs of normalised rows (B, D); lower is more even."""
    squared = torch.pdist(x.float()).square()
    return squared.mul(-2).logsumexp(dim=0) - torch.log(torch.tensor(float(len(squared)), device=x.device))
