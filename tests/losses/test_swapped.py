"""Swapped prediction against its formula and lightly's loss of SwAV."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmssl.losses.swapped import swapped_prediction
from mmssl.nn.sinkhorn import sinkhorn


def scores_of(views: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    prototypes = F.normalize(torch.randn(9, 6), dim=1)
    return [(F.normalize(torch.randn(5, 6), dim=1) @ prototypes.T).requires_grad_() for _ in range(views)]


def assigned(scores: list[torch.Tensor]) -> list[torch.Tensor]:
    return [sinkhorn(view, epsilon=0.05, iterations=3) for view in scores[:2]]


def plain(scores: list[torch.Tensor], temperature: float) -> torch.Tensor:
    found = []
    for i, given in enumerate(assigned(scores)):
        for v, view in enumerate(scores):
            if v != i:
                p = (view / temperature).exp() / (view / temperature).exp().sum(dim=1, keepdim=True)
                found.append(-(given * p.log()).sum(dim=1))
    return torch.stack(found).mean(dim=0)


@pytest.mark.parametrize("views", [2, 4])
def test_value_and_gradient(views: int) -> None:
    found, expected = scores_of(views), scores_of(views)
    value = swapped_prediction(found, assigned(found), temperature=0.1)
    torch.testing.assert_close(value, plain(expected, 0.1))
    value.mean().backward()
    plain(expected, 0.1).mean().backward()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("views", [2, 5])
def test_equals_lightly(views: int) -> None:
    lightly = pytest.importorskip("lightly.loss")
    found, expected = scores_of(views), scores_of(views)
    value = swapped_prediction(found, assigned(found), temperature=0.1).mean()
    theirs = lightly.SwaVLoss()(expected[:2], expected[2:])[0]
    torch.testing.assert_close(value, theirs)
    value.backward()
    theirs.backward()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)
