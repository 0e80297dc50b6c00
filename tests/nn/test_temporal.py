"""Pooling that knows when."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mmssl.nn.temporal import Mix, Temporal


def normalised(x: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """Batch normalisation in training, of rows (N, C)."""
    return (x - x.mean(0)) / (x.var(0, correction=0) + norm.eps).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize("time", [1, 3, 9])
@pytest.mark.parametrize("depth", [0, 2])
def test_equals_a_loop_over_moments(time: int, depth: int) -> None:
    batch, number, dim, moments = 3, 2, 4, 5
    pool = Temporal(dim, depth=depth, moments=moments)
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    cells = torch.randn(batch, time, number, dim)
    x = cells.clone()
    assert len(pool.blocks) == depth and pool.profiles.shape == (1, dim, moments)
    for block in pool.blocks:
        h = normalised(x.reshape(-1, dim), block.norm).view_as(x).clamp(min=0)
        mixed = torch.zeros_like(x) + block.conv.bias
        for t in range(time):
            for k in (-1, 0, 1):
                if 0 <= t + k < time:
                    mixed[:, t] += h[:, t + k] @ block.conv.weight[:, :, k + 1].T
        x = x + mixed
    linear, norm, _ = pool.pool
    total = torch.zeros(batch, dim)
    for t in range(time):
        y = torch.cat([x[:, t].mean(1), x[:, t].max(1).values], dim=1) @ linear.weight.T + linear.bias
        y = (y - y.mean(1, keepdim=True)) / (y.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
        y = (y * norm.weight + norm.bias).clamp(min=0)
        place = min(max((t + 0.5) * moments / time - 0.5, 0), moments - 1)  # between the points of the profile
        left, right = math.floor(place), min(math.floor(place) + 1, moments - 1)
        profile = pool.profiles[0]
        total = total + y * ((left + 1 - place) * profile[:, left] + (place - left) * profile[:, right])
    torch.testing.assert_close(pool(cells), normalised(total / time, pool.out), rtol=1e-4, atol=1e-4)


def test_sixteen_moments_by_default() -> None:
    assert Temporal(3, depth=1).profiles.shape == (1, 3, 16)
    assert Mix(3).conv.kernel_size == (3,)


@pytest.mark.parametrize("time", [1, 2, 7, 40])
@pytest.mark.parametrize("cells", [1, 6])
def test_takes_any_number_of_moments_and_cells(time: int, cells: int) -> None:
    pool = Temporal(8, depth=2)
    out = pool(torch.randn(3, time, cells, 8))
    assert out.shape == (3, 8)
    (out * torch.randn(3, 8)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pool.parameters())


def test_tells_when_but_not_where() -> None:
    pool = Temporal(8, depth=1).eval()
    x = torch.randn(2, 10, 6, 8)
    torch.testing.assert_close(pool(x[:, :, torch.randperm(6)]), pool(x))
    event = torch.zeros(1, 10, 6, 8)
    event[:, 2] = 3.0
    early, late = pool(event), pool(event.roll(5, 1))
    assert (early - late).norm() > 0.1 * early.norm()


def test_a_profile_is_the_same_shape_at_any_rate() -> None:
    pool = Temporal(8, depth=1).eval()
    still = torch.randn(2, 1, 3, 8)
    fine, coarse = pool(still.expand(-1, 64, -1, -1)), pool(still.expand(-1, 32, -1, -1))
    assert (fine - coarse).norm() < 0.1 * fine.norm()
