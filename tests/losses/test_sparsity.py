"""The divergence of units' activity against its formula."""

from __future__ import annotations

import math

import pytest
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


def test_all_samples_count_where_nothing_is_said_and_units_are_averaged() -> None:
    active = torch.tensor([[0.2, 0.9], [0.4, 0.7]])  # means of 0.3 and 0.8
    expected = [0.1 * math.log(0.1 / m) + 0.9 * math.log(0.9 / (1 - m)) for m in (0.3, 0.8)]
    assert kl_sparsity(active, rate=0.1).item() == pytest.approx(sum(expected) / 2, rel=1e-5)


@pytest.mark.parametrize("active", [0.0, 1.0])
def test_a_mean_is_kept_a_millionth_from_its_ends(active: float) -> None:
    mean = 1e-6 if active == 0 else 1 - 1e-6
    expected = 0.25 * math.log(0.25 / mean) + 0.75 * math.log(0.75 / (1 - mean))
    assert kl_sparsity(torch.full((3, 1), active), rate=0.25).item() == pytest.approx(expected, rel=0.01)


def test_it_is_in_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kl_sparsity(torch.full((3, 1), 0.3, dtype=torch.bfloat16), rate=0.1)
    mean = torch.tensor(0.3).bfloat16().item()
    expected = 0.1 * math.log(0.1 / mean) + 0.9 * math.log(0.9 / (1 - mean))
    assert found.dtype == torch.float32 and found.item() == pytest.approx(expected, rel=1e-5)
