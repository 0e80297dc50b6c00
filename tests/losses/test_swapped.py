"""Swapped prediction against its formula and lightly's loss of SwAV."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmssl.losses.swapped import swapped_prediction
from mmssl.numerics.sinkhorn import sinkhorn


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


def test_assignments_get_no_gradient_and_all_is_counted_in_float32() -> None:
    scores = [view.detach() for view in scores_of(3)]
    given = [x.requires_grad_() for x in assigned(scores)]
    half = [view.bfloat16().requires_grad_() for view in scores]
    found = swapped_prediction(half, given, temperature=0.1)
    found.sum().backward()
    assert all(x.grad is None for x in given) and all(view.grad is not None for view in half)
    torch.testing.assert_close(found, swapped_prediction([v.float() for v in half], given, temperature=0.1))
    assert found.dtype == torch.float32 and found.shape == (5,)


def test_one_assigned_view_is_foretold_by_every_other() -> None:
    views = torch.tensor([[[5.0, 5.0]], [[0.0, 1.0]], [[2.0, 0.0]]])
    given = torch.tensor([[0.25, 0.75]])
    expected = 0.0
    for a, b in ((0.0, 0.5), (1.0, 0.0)):  # over the temperature 2
        log_sum = float(torch.tensor([a, b]).logsumexp(dim=0))
        expected += (0.25 * (log_sum - a) + 0.75 * (log_sum - b)) / 2
    torch.testing.assert_close(swapped_prediction(list(views), [given], temperature=2.0), torch.tensor([expected]))
