"""Negative cosine against its formula, and against lightly."""

from __future__ import annotations

import pytest
import torch

from mmssl.losses.cosine import negative_cosine


def graded(loss, predictions: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = predictions.clone().requires_grad_()
    value = loss(x, targets)
    value.backward()
    return value.detach(), x.grad


def plain(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    rows = [-(p @ t) / (p @ p).sqrt() / (t @ t).sqrt() for p, t in zip(predictions, targets, strict=True)]
    return sum(rows) / len(rows)


def test_value_and_gradient() -> None:
    torch.manual_seed(0)
    predictions, targets = torch.randn(2, 6, 5)
    ours = graded(lambda p, t: negative_cosine(p, t).mean(), predictions, targets)
    torch.testing.assert_close(ours, graded(plain, predictions, targets))
    lightly = pytest.importorskip("lightly.loss")
    torch.testing.assert_close(ours, graded(lightly.NegativeCosineSimilarity(), predictions, targets))


def test_it_is_the_distance_at_unit_length_and_targets_get_no_gradient() -> None:
    torch.manual_seed(0)
    predictions, targets = torch.randn(2, 6, 5).requires_grad_().unbind()
    apart = (predictions / predictions.norm(dim=1, keepdim=True) - targets / targets.norm(dim=1, keepdim=True)).square()
    torch.testing.assert_close(2 + 2 * negative_cosine(predictions, targets), apart.sum(dim=1))
    given = torch.randn(6, 5).requires_grad_()
    negative_cosine(predictions.detach().requires_grad_(), given).sum().backward()
    assert given.grad is None
