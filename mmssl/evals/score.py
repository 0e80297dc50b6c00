"""Figures with their 95% bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmssl.types import Score

RESAMPLES = 1000


def bootstrap(
    values: Tensor,
    *,
    chance: float,
    trivial: float | None = None,
    statistic: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
) -> Score:
    """Scores one value per sample (N,) by their mean, or by a statistic over the last dimension of (R, N).

    The interval spans the 2.5th to the 97.5th percentile over 1,000 resamples of the samples.
    """
    reduce = statistic or (lambda x: x.mean(dim=-1))
    values = values.double().cpu()
    if len(values) == 0:
        return Score(float("nan"), float("nan"), float("nan"), chance, 0, trivial)
    generator = torch.Generator().manual_seed(seed)
    found = []
    chunk = max(1, 4_000_000 // len(values))  # keeps the index table in bounds
    for start in range(0, RESAMPLES, chunk):
        shape = (min(chunk, RESAMPLES - start), len(values))
        found.append(reduce(values[torch.randint(len(values), shape, generator=generator)]))
    low, high = torch.cat(found).quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return Score(float(reduce(values)), low, high, chance, len(values), trivial)
