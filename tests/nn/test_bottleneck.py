"""The dVAE's residual convolutions by their formula."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmssl.nn.bottleneck import Bottleneck, conv


@pytest.mark.parametrize("inputs, outputs, hidden", [(8, 8, 2), (6, 13, 3), (5, 3, 1)])
@pytest.mark.parametrize("kernels", [(3, 3, 3, 1), (1, 3, 5, 3)])
def test_four_convolutions_are_added(inputs: int, outputs: int, hidden: int, kernels: tuple[int, ...]) -> None:
    block = Bottleneck(inputs, outputs, kernels=kernels, layers=3).double()
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randn(2, inputs, 6, 5, dtype=torch.double, requires_grad=True)
    weights = list(block.branch.parameters())
    assert [tuple(w.shape) for w in weights[::2]] == [
        (after, before, k, k)
        for before, after, k in zip(
            (inputs, hidden, hidden, hidden), (hidden, hidden, hidden, outputs), kernels, strict=True
        )
    ]
    branch = x
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        branch = F.conv2d(branch.relu(), weight, bias, padding=weight.shape[-1] // 2)
    short = x if inputs == outputs else F.conv2d(x, block.short.weight, block.short.bias)
    expected = short + branch / 9
    torch.testing.assert_close(block(x), expected)
    (mine,) = torch.autograd.grad(block(x).square().sum(), x)
    (theirs,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(mine, theirs)


def test_a_convolution_keeps_size_and_variance() -> None:
    made = conv(8, 100, 5)
    assert made(torch.zeros(1, 8, 7, 9)).shape == (1, 100, 7, 9) and not made.bias.any()
    assert made.weight.std().item() == pytest.approx((8 * 25) ** -0.5, rel=0.02)  # 20 000 draws
    x = torch.randn(4, 8, 20, 20)
    assert made(x)[:, :, 2:-2, 2:-2].std().item() == pytest.approx(1.0, rel=0.05)
    assert conv(2, 3, 1).padding == (0, 0)
