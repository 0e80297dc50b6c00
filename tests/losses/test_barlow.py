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


def test_one_sample_has_no_correlation() -> None:
    x = torch.randn(1, 4).requires_grad_()
    total = sum(barlow(x, x))
    total.backward()
    assert total == 0 and not x.grad.any()
