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
