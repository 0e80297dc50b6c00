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


def test_one_place_by_hand() -> None:
    """Of three classes with e, e^2 and 1, shares of 3/4 and 1/4 at weights of 2 and 0."""
    logits = torch.tensor([1.0, 2.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    classes = torch.tensor([1, 2]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    shares = torch.tensor([0.75, 0.25]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    whole = torch.tensor([1.0, 2.0, 0.0]).exp().sum().log()
    cost = 0.75 * (whole - 2) + 0.25 * (whole - 0)
    found = soft_nll(logits, classes, shares, torch.tensor([[[2.0, 0.0]]]))
    torch.testing.assert_close(found, (2 * cost / 2)[None])


def test_it_is_in_float32() -> None:
    logits = torch.full((1, 4, 1, 1), 0.0, dtype=torch.bfloat16)
    classes, shares = torch.zeros(1, 1, 1, 1, dtype=torch.long), torch.ones(1, 1, 1, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = soft_nll(logits, classes, shares, torch.ones(1, 1, 1))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([4.0]).log())
