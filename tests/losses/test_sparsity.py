"""The divergence of units' activity against its formula."""

from __future__ import annotations

import math

import torch

from mmssl.losses.sparsity import kl_sparsity


def test_value_and_gradient() -> None:
    torch.manual_seed(0)
    raw = torch.rand(6, 3)
    present = torch.tensor([True, False, True, True, True, False])

    def plain(active: torch.Tensor) -> torch.Tensor:
        terms = []
        for unit in range(3):
            mean = torch.stack([active[row, unit] for row in range(6) if present[row]]).mean()
            terms.append(0.1 * torch.log(0.1 / mean) + 0.9 * torch.log(0.9 / (1 - mean)))
        return torch.stack(terms).mean()

    found = []
    for loss in (lambda x: kl_sparsity(x, rate=0.1, present=present), plain):
        x = raw.clone().requires_grad_()
        value = loss(x)
        value.backward()
        found.append((value.detach(), x.grad))
    torch.testing.assert_close(found[0], found[1])


def test_zero_at_the_rate_and_finite_where_units_are_dead_or_nothing_counts() -> None:
    assert kl_sparsity(torch.full((4, 2), 0.05), rate=0.05).abs() < 1e-6
    dead = torch.zeros(4, 2, requires_grad=True)
    value = kl_sparsity(dead, rate=0.05)
    value.backward()
    assert math.isfinite(value.item()) and dead.grad is not None and dead.grad.isfinite().all()
    assert kl_sparsity(dead, rate=0.05, present=torch.zeros(4, dtype=torch.bool)) == 0
