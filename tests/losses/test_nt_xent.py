"""NT-Xent against its formula, written as loops."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from mmssl.losses.nt_xent import nt_xent


def plain(one: torch.Tensor, other: torch.Tensor, temperature: float) -> torch.Tensor:
    views = torch.cat([one, other])
    losses = []
    for i in range(len(views)):
        partner = (i + len(one)) % len(views)
        below = sum(math.e ** (views[i] @ views[k] / temperature) for k in range(len(views)) if k != i)
        losses.append(-torch.log(math.e ** (views[i] @ views[partner] / temperature) / below))
    both = torch.stack(losses).view(2, -1)
    return both.mean(dim=0)


def test_value_and_gradient() -> None:
    torch.manual_seed(0)
    raw = torch.randn(2, 5, 4, dtype=torch.double)
    grads = []
    for loss in (lambda a, b: nt_xent(a, b, temperature=0.3).mean(), lambda a, b: plain(a, b, 0.3).mean()):
        x = raw.float().clone().requires_grad_()
        value = loss(*F.normalize(x, dim=2))
        value.backward()
        grads.append((value.detach(), x.grad))
    torch.testing.assert_close(grads[0], grads[1])


def test_absent_samples_are_no_candidates() -> None:
    torch.manual_seed(0)
    one, other = F.normalize(torch.randn(2, 6, 4), dim=2)
    present = torch.tensor([True, False, True, True, False, True])
    found = nt_xent(one, other, temperature=0.5, present=present)
    torch.testing.assert_close(found[present], nt_xent(one[present], other[present], temperature=0.5))
    assert not found[~present].any()


def test_absent_samples_have_no_gradient_and_none_at_all_is_zero() -> None:
    raw = torch.randn(2, 6, 4, requires_grad=True)
    present = torch.tensor([True, False, True, True, False, True])
    (gradient,) = torch.autograd.grad(nt_xent(*raw, temperature=0.5, present=present).sum(), raw)
    assert not gradient[:, ~present].any() and gradient[:, present].any(dim=2).all()
    none = nt_xent(*raw, temperature=0.5, present=torch.zeros(6, dtype=torch.bool))
    assert not none.any() and torch.autograd.grad(none.sum(), raw)[0].isfinite().all()


def test_each_sample_has_the_mean_of_its_two_views() -> None:
    one, other = F.normalize(torch.randn(2, 5, 4), dim=2)
    torch.testing.assert_close(nt_xent(one, other, temperature=0.4), plain(one, other, 0.4))
