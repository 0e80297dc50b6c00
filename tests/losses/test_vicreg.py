"""VICReg against its formulas, written as loops, and against lightly."""

from __future__ import annotations

import pytest
import torch

from mmssl.losses.vicreg import EPSILON, vicreg


def graded(loss, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = views.clone().requires_grad_()
    value = loss(*x)
    value.backward()
    return value.detach(), x.grad


def ours(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    invariance, variance, covariance = vicreg(one, other)
    return 25 * invariance + 25 * variance + covariance


def plain(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    rows, dims = one.shape
    total = 25 * sum((one[n, d] - other[n, d]) ** 2 for n in range(rows) for d in range(dims)) / (rows * dims)
    for x in (one, other):
        away = [x[:, d] - x[:, d].sum() / rows for d in range(dims)]
        for i in range(dims):
            below = 1 - ((away[i] @ away[i]) / (rows - 1) + EPSILON).sqrt()
            total = total + 25 * below.clamp(min=0) / dims / 2
            total = total + sum(((away[i] @ away[j]) / (rows - 1)) ** 2 for j in range(dims) if j != i) / dims
    return total


@pytest.mark.parametrize("size", [0.3, 3.0])
def test_value_and_gradient(size: float) -> None:
    torch.manual_seed(0)
    views = torch.randn(2, 9, 4) * size + 1
    found = graded(ours, views)
    torch.testing.assert_close(found, graded(plain, views), rtol=1e-5, atol=1e-5)
    lightly = pytest.importorskip("lightly.loss")
    torch.testing.assert_close(found, graded(lightly.VICRegLoss(), views), rtol=1e-5, atol=1e-5)


def test_each_term_by_hand() -> None:
    """Two samples; deviations of the dimensions are 1.41 and 0.71 in the first view, 0 and 2.83 in the other."""
    one, other = torch.tensor([[0.0, 1.0], [2.0, 2.0]]), torch.tensor([[1.0, -1.0], [1.0, 3.0]])
    invariance, variance, covariance = vicreg(one, other)
    assert invariance.item() == pytest.approx((1 + 4 + 1 + 1) / 4)
    below = [1 - (0.5 + EPSILON) ** 0.5, 1 - EPSILON**0.5]
    assert variance.item() == pytest.approx(sum(below) / 4)
    assert covariance.item() == pytest.approx(2 * 1.0**2 / 2)  # of the first view alone
    assert EPSILON == 1e-4


def test_collapse_shows_in_the_variance() -> None:
    invariance, variance, covariance = vicreg(torch.ones(5, 3), torch.ones(5, 3))
    assert invariance == covariance == 0
    assert variance == pytest.approx(1 - EPSILON**0.5)


def test_one_sample_has_no_variance() -> None:
    x = torch.randn(1, 4).requires_grad_()
    total = sum(vicreg(x, x))
    total.backward()
    assert total == 0 and not x.grad.any()
