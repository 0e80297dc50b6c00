"""Pooling that knows when."""

from __future__ import annotations

import pytest
import torch

from mmssl.nn.temporal import Temporal


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
