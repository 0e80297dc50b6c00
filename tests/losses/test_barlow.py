"""Barlow Twins against its formula, written as loops, and against lightly."""

from __future__ import annotations

import pytest
import torch

from mmssl.losses.barlow import EPSILON, barlow


def graded(loss, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = views.clone().requires_grad_()
    value = loss(*x)
    value.backward()
    return value.detach(), x.grad


def ours(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    agreement, redundancy = barlow(one, other)
    return agreement + 0.0051 * redundancy


def plain(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(())
    for i in range(one.shape[1]):
        for j in range(one.shape[1]):
            a, b = one[:, i] - one[:, i].mean(), other[:, j] - other[:, j].mean()
            spread = ((a * a).mean() + EPSILON).sqrt() * ((b * b).mean() + EPSILON).sqrt()
            found = (a * b).mean() / spread
            total = total + ((1 - found) ** 2 if i == j else 0.0051 * found**2)
    return total


def test_value_and_gradient() -> None:
    torch.manual_seed(0)
    views = torch.randn(2, 9, 4) * 3 + 1
    found = graded(ours, views)
    torch.testing.assert_close(found, graded(plain, views), rtol=1e-5, atol=1e-6)
    lightly = pytest.importorskip("lightly.loss")
    torch.testing.assert_close(found, graded(lightly.BarlowTwinsLoss(0.0051), views), rtol=1e-5, atol=1e-6)


def test_equal_views_with_nothing_in_common_between_dimensions_lose_nothing() -> None:
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    torch.testing.assert_close(sum(barlow(x, x)), torch.tensor(0.0), rtol=0, atol=1e-8)


def test_on_and_off_the_diagonal_are_apart() -> None:
    views = torch.randn(2, 7, 3)
    one, other = ((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in views)
    found = [[float((one[:, i] * other[:, j]).mean()) for j in range(3)] for i in range(3)]
    agreement, redundancy = barlow(*views)
    assert agreement.item() == pytest.approx(sum((found[i][i] - 1) ** 2 for i in range(3)), rel=1e-4)
    off = sum(found[i][j] ** 2 for i in range(3) for j in range(3) if i != j)
    assert redundancy.item() == pytest.approx(off, rel=1e-4)


def test_dimensions_that_do_not_vary_have_a_finite_gradient() -> None:
    x = torch.ones(4, 3, requires_grad=True)
    agreement, redundancy = barlow(x, torch.randn(4, 3))
    assert (agreement, redundancy) == (3, 0)
    assert torch.autograd.grad(agreement, x)[0].isfinite().all()
    assert torch.nn.BatchNorm1d(1).eps == EPSILON


def test_two_samples_are_enough() -> None:
    agreement, redundancy = barlow(torch.tensor([[9.0, 5.0], [-9.0, -5.0]]), torch.tensor([[-7.0, 3.0], [7.0, -3.0]]))
    assert (agreement.item(), redundancy.item()) == (
        pytest.approx(4, rel=1e-5),
        pytest.approx(2, rel=1e-5),
    )  # [[-1, 1], [-1, 1]]


def test_one_sample_has_no_correlation() -> None:
    x = torch.randn(1, 4).requires_grad_()
    total = sum(barlow(x, x))
    total.backward()
    assert total == 0 and not x.grad.any()
