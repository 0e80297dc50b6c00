"""Cross-entropy for shared answers against torch's own for dense targets."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mmssl.losses.soft_bins import soft_nll


def test_value_and_gradient() -> None:
    torch.manual_seed(0)
    raw = torch.randn(2, 6, 3, 4)
    classes = torch.rand(2, 6, 3, 4).topk(3, dim=1).indices
    shares = torch.rand(2, 3, 3, 4).softmax(dim=1)
    dense = torch.zeros_like(raw).scatter(1, classes, shares)
    found = []
    weight = torch.rand(2, 3, 4)
    for loss in (
        lambda x: soft_nll(x, classes, shares, weight),
        lambda x: (weight * F.cross_entropy(x, dense, reduction="none")).mean((1, 2)),
    ):
        x = raw.clone().requires_grad_()
        value = loss(x)
        value.sum().backward()
        found.append((value.detach(), x.grad))
    torch.testing.assert_close(found[0], found[1])
