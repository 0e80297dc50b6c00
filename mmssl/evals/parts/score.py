"""Figures with their 95% bootstrap interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.types import Score

RESAMPLES = 1000


def bootstrap(
    values: Tensor,
    *,
    chance: float,
    trivial: float | None = None,
    parts: Mapping[str, float] | None = None,
    statistic: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
) -> Score:
    """Scores one value per sample (N,) by their mean, or by a statistic over the last dimension of (R, N).

    The interval spans the 2.5th to the 97.5th percentile over 1,000 resamples of the samples. values may be of
    several draws (K, N), such as of what was learnt from; the draws are then resampled as well.
    parts: the figure of each class, sequence and the like, which the score keeps.
    """
    if values.ndim == 2:
        assert statistic is None, "several draws are scored by their mean"
        return replace(_of_draws(values.double().cpu(), chance=chance, trivial=trivial, seed=seed), parts=parts)
    reduce = statistic or (lambda x: x.mean(dim=-1))
    values = values.double().cpu()
    if len(values) == 0:
        return Score(float("nan"), float("nan"), float("nan"), chance, 0, trivial, parts)
    generator = torch.Generator().manual_seed(seed)
    found = []
    chunk = max(1, 4_000_000 // len(values))  # keeps the index table in bounds
    for start in range(0, RESAMPLES, chunk):
        shape = (min(chunk, RESAMPLES - start), len(values))
        found.append(reduce(values[torch.randint(len(values), shape, generator=generator)]))
    low, high = torch.cat(found).quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return Score(float(reduce(values)), low, high, chance, len(values), trivial, parts)


def named(names: Iterable[str], values: Iterable[float]) -> dict[str, float]:
    """Returns name -> value, for a score's parts; a key that another shard has too is told apart by a number."""
    found: dict[str, float] = {}
    times: Counter[str] = Counter()
    for name, value in zip(names, values, strict=True):
        key = name
        while key in found:
            times[name] += 1
            key = f"{name} ({times[name] + 1})"
        found[key] = value
    return found


def rising(name: str, edges: Iterable[float]) -> tuple[float, ...]:
    """Returns the edges of bins; UserError, by the name of the option, where they do not rise from above 0."""
    found = tuple(edges)
    if any(low >= high for low, high in pairwise((0.0, *found))):
        raise UserError(f"{name} is {list(found)}; expected edges above 0 that rise")
    return found


def parted(values: Tensor, edges: tuple[float, ...]) -> Iterator[tuple[str, Tensor]]:
    """Yields LOW-HIGH and the rows from LOW to below HIGH of each bin of values (N,) that has some.

    The first begins at 0, the last has no end: LOW-. Without edges there are no bins.
    """
    for low, high in pairwise((0.0, *edges, math.inf) if edges else ()):
        rows = ((values >= low) & (values < high)).nonzero()[:, 0]
        if len(rows):
            yield f"{low:g}-{high:g}" if high < math.inf else f"{low:g}-", rows


def _of_draws(values: Tensor, *, chance: float, trivial: float | None, seed: int) -> Score:
    draws, count = values.shape
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(RESAMPLES):
        rows = torch.randint(draws, (draws,), generator=generator)
        columns = torch.randint(count, (count,), generator=generator)
        weigh = torch.bincount(columns, minlength=count).double()
        found.append((values @ weigh)[rows].mean() / count)
    low, high = torch.stack(found).quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return Score(float(values.mean()), low, high, chance, count, trivial)
