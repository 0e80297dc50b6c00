"""Triton's kernels for tiles, interpreted on a CPU, against the whole matrix in float64."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.losses import tiles

sys.path.insert(0, str(Path(__file__).parents[1]))
from interpreted import interpreted as interpreted  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, for exp of -1e30


@pytest.fixture(autouse=True)
def small_tiles(interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SIDE", {"cpu": 40, "cuda": 40})
    monkeypatch.setattr(tiles, "KEPT", 0)


def given(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Queries (2, 70, 5), keys (2, 90, 5), scale, three own keys and one left out of each query, keys that count."""
    random = torch.Generator().manual_seed(1)
    queries, keys = (torch.randn(2, size, 5, generator=random, dtype=torch.float64) for size in (70, 90))
    own = torch.stack([torch.randperm(90, generator=random)[:4] for _ in range(140)]).view(2, 70, 4)
    keep = torch.rand(2, 1, 90, generator=random) > 0.2
    numbers = [x.to(dtype).requires_grad_() for x in (queries, keys, torch.tensor(1.7, dtype=torch.float64))]
    return *numbers, own[:, :, :3], own[:1, :, 3:], keep


def whole(queries: Tensor, keys: Tensor, scale: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sums of rows and columns, and own scores, by their definition."""
    own, exclude, keep = rest
    scores = scale * queries @ keys.mT
    gone = ~keep.expand_as(scores)
    for numbers in (own, exclude.expand(2, -1, -1)):
        gone = gone | F.one_hot(numbers, 90).any(2)
    left = scores.masked_fill(gone, -torch.inf)
    return left.logsumexp(2), left.logsumexp(1), scores.masked_fill(~keep, -1e30).gather(2, own)


def test_sums_and_gradients_are_those_of_the_whole_matrix() -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        queries, keys, scale, own, exclude, keep = given(dtype)
        if dtype == torch.float32:
            pairs = tiles.Pairs(own=own, exclude=exclude, keep=keep)
            assert tiles._kernels(queries) is not None
            how = tiles.LogSums(queries, keys, pairs, columns=True)
            rows, columns, _, _, mine = tiles.tiled(how, pairs, queries, keys, scale=scale)
        else:
            rows, columns, mine = whole(queries, keys, scale, own, exclude, keep)
        random, there = torch.Generator().manual_seed(2), keep[:, 0]
        shares = [torch.randn(x.shape, generator=random) for x in (rows, columns, mine)]
        parts = rows, columns.masked_fill(~there, 0), mine.masked_fill(mine < -1e29, 0)
        total = sum((share * part).sum() for share, part in zip(shares, parts, strict=True))
        found.append([*parts, *torch.autograd.grad(total, (queries, keys, scale))])
    for mine, right in zip(*found, strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=2e-6, atol=1e-5)


def test_a_row_of_which_nothing_counts_stays_finite() -> None:
    queries, keys = torch.ones(1, 3, 2, requires_grad=True), torch.ones(1, 50, 2)
    pairs = tiles.Pairs(keep=torch.zeros(1, 1, 50, dtype=torch.bool))
    rows = tiles.tiled(tiles.LogSums(queries, keys, pairs), pairs, queries, keys, scale=1.0)[0]
    (gradient,) = torch.autograd.grad(rows.sum(), queries)
    assert rows.isfinite().all() and gradient.isfinite().all()


def test_what_is_put_to_one_column_twice_adds_up() -> None:
    x, numbers = torch.zeros(1, 2, 4), torch.tensor([[[5, 5, 9], [4, 6, 0]]])
    tiles._kernels(x).put(x, numbers, 4, torch.tensor([[[1.0, 2.0, 8.0], [4.0, 8.0, 16.0]]]))
    assert x.tolist() == [[[0, 3, 0, 0], [4, 0, 8, 0]]]
