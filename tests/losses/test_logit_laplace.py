"""The logit-Laplace likelihood against its formula."""

from __future__ import annotations

import math

import torch

from mmssl.losses.logit_laplace import inside, logit_laplace, outside


def test_value_and_gradient() -> None:
    x = torch.rand(7) * 0.8 + 0.1
    raw = torch.randn(2, 7)

    def plain(mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
        losses = []
        for value, m, s in zip(x.tolist(), mean, log_scale, strict=True):
            b = torch.exp(s)
            density = 1 / (2 * b * value * (1 - value)) * torch.exp(-abs(math.log(value / (1 - value)) - m) / b)
            losses.append(-torch.log(density))
        return torch.stack(losses)

    found = []
    for loss in (plain, lambda m, s: logit_laplace(x, m, s)):
        given = raw.clone().requires_grad_()
        values = loss(*given)
        values.sum().backward()
        found.append((values.detach(), given.grad))
    torch.testing.assert_close(*found)


def test_it_is_a_density_on_zero_to_one() -> None:
    x = (torch.arange(100_000) + 0.5) / 100_000
    density = (-logit_laplace(x, torch.tensor(0.7), torch.tensor(-0.5))).exp()
    torch.testing.assert_close(density.mean(), torch.tensor(1.0), rtol=1e-3, atol=0)


def test_pixels_move_inwards_and_back() -> None:
    x = torch.tensor([0.0, 0.3, 1.0])
    torch.testing.assert_close(inside(x), torch.tensor([0.1, 0.34, 0.9]))
    torch.testing.assert_close(outside(inside(x)), x)


def test_it_is_counted_in_float32() -> None:
    x, mean, scale = torch.rand(7) * 0.8 + 0.1, torch.randn(7), torch.randn(7)
    halves = [v.bfloat16() for v in (x, mean, scale)]
    found = logit_laplace(*halves)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logit_laplace(*(v.float() for v in halves)), rtol=0, atol=0)
