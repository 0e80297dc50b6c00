"""Errors of hidden patches against their formula, written as loops."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from mmssl.losses.patches import patch_error, whitened


@pytest.mark.parametrize("error", ["l1", "l2"])
def test_value_and_gradient(error: Literal["l1", "l2"]) -> None:
    raw, target = torch.randn(2, 3, 5, 4)
    mask = torch.tensor([[1, 0, 1, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 1]], dtype=torch.bool)

    def plain(x: torch.Tensor) -> torch.Tensor:
        losses = []
        for row in range(3):
            apart = [x[row, i] - target[row, i] for i in range(5) if mask[row, i]]
            each = [(d * d if error == "l2" else d.abs()).sum() / 4 for d in apart]
            losses.append(sum(each) / len(each))
        return torch.stack(losses)

    found = []
    for loss in (plain, lambda x: patch_error(x, target, mask, error=error)):
        x = raw.clone().requires_grad_()
        value = loss(x)
        (value * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        found.append((value.detach(), x.grad))
    torch.testing.assert_close(*found)


def test_whitened_is_lightlys() -> None:
    utils = pytest.importorskip("lightly.models.utils")
    x = torch.randn(3, 5, 12) * 4 + 2
    torch.testing.assert_close(whitened(x), utils.normalize_mean_var(x))
    assert whitened(torch.ones(1, 1, 12)).abs().max() == 0


def test_squares_unless_sizes_are_asked_for() -> None:
    predicted, target = torch.tensor([[[3.0, 0.0], [9.0, 9.0]]]), torch.zeros(1, 2, 2)
    mask = torch.tensor([[True, False]])
    assert patch_error(predicted, target, mask).tolist() == [4.5]
    assert patch_error(predicted, target, mask, error="l1").tolist() == [1.5]
    assert patch_error(predicted, target, ~mask & False).tolist() == [0.0], "nothing is hidden"


def test_whitened_by_hand() -> None:
    """Mean 2, unbiased variance 1, of which a millionth more keeps even patches finite."""
    found = whitened(torch.tensor([[[1.0, 2.0, 3.0], [1e-3, 2e-3, 3e-3]]]))
    expected = torch.tensor([[[-1.0, 0.0, 1.0], [-1 / 2**0.5, 0.0, 1 / 2**0.5]]])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    half = torch.randn(2, 3, 12).bfloat16()
    assert whitened(half).dtype == torch.float32
    torch.testing.assert_close(whitened(half), whitened(half.float()))
