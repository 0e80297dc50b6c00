"""Pixel errors against their formula, written as loops."""

from __future__ import annotations

import pytest
import torch

from mmssl.losses.pixels import Error, pixel_error


@pytest.mark.parametrize("error", ["l1", "l2"])
def test_value_and_gradient(error: Error) -> None:
    torch.manual_seed(0)
    drawn, truth, weight = torch.randn(3, 2, 4, 5), torch.rand(3, 2, 4, 5), torch.rand(3, 1, 4, 5)

    def plain(x: torch.Tensor) -> torch.Tensor:
        losses = []
        for row in range(3):
            total, counted = torch.zeros(()), torch.zeros(())
            for i in range(4):
                for j in range(5):
                    apart = x[row, :, i, j] - truth[row, :, i, j]
                    total = total + weight[row, 0, i, j] * (apart**2 if error == "l2" else apart.abs()).mean()
                    counted = counted + weight[row, 0, i, j]
            losses.append(total / counted)
        return torch.stack(losses)

    found = []
    for loss in (lambda x: pixel_error(x, truth, error=error, weight=weight), plain):
        x = drawn.clone().requires_grad_()
        value = loss(x)
        value.sum().backward()
        found.append((value.detach(), x.grad))
    torch.testing.assert_close(found[0], found[1])
    even = pixel_error(drawn, truth, error=error)
    torch.testing.assert_close(even, pixel_error(drawn, truth, error=error, weight=torch.ones_like(weight)))


def test_nothing_to_draw_costs_nothing() -> None:
    drawn = torch.ones(2, 3, 4, 4, requires_grad=True)
    weight = torch.zeros(2, 1, 4, 4)
    weight[1, 0, 2, 2] = 1
    losses = pixel_error(drawn, torch.zeros(2, 3, 4, 4), weight=weight)
    assert losses.tolist() == [0, 1]
    losses.sum().backward()
    assert drawn.grad is not None and (drawn.grad != 0).sum() == 3


def test_squares_are_the_default_and_what_is_even_counts_every_pixel_and_channel() -> None:
    drawn = torch.tensor([[[[0.0, 2.0]], [[4.0, 0.0]]], [[[1.0, 1.0]], [[1.0, 1.0]]]])  # (2, 2, 1, 2)
    truth = torch.zeros(2, 2, 1, 2)
    assert pixel_error(drawn, truth).tolist() == [5.0, 1.0]  # (4 + 16) / 4
    assert pixel_error(drawn, truth, error="l1").tolist() == [1.5, 1.0]
    weight = torch.tensor([[[[3.0, 1.0]]], [[[0.0, 0.5]]]])
    assert pixel_error(drawn, truth, weight=weight).tolist() == [(3 * 8 + 1 * 2) / 4, 1.0]


@pytest.mark.parametrize("weighed", [True, False])
def test_it_is_in_float32(weighed: bool) -> None:
    drawn, truth = torch.full((1, 1, 1, 2), 300.0).half(), torch.zeros(1, 1, 1, 2).half()  # squares beyond a half
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pixel_error(drawn, truth, weight=torch.ones(1, 1, 1, 2).half() if weighed else None)
    assert found.dtype == torch.float32 and found.tolist() == [90000.0]


def test_a_weight_that_a_half_cannot_sum_is_summed() -> None:
    weight = torch.full((1, 1, 10, 10), 1000.0).half()
    found = pixel_error(torch.ones(1, 1, 10, 10), torch.zeros(1, 1, 10, 10), weight=weight)
    assert found.item() == 1.0


def test_the_least_weight_is_a_millionth() -> None:
    weight = torch.full((1, 1, 1, 1), 1e-7)
    assert pixel_error(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), weight=weight).item() == pytest.approx(0.1)
