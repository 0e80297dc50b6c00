import pytest
import torch
from torch.nn import functional as F

from mmssl.losses.sigmoid import pairwise_sigmoid


def leaves() -> list[torch.Tensor]:
    q, k = (F.normalize(torch.randn(5, 4), dim=1).requires_grad_() for _ in "qk")
    return [q, k, torch.tensor(8.0, requires_grad=True), torch.tensor(-4.0, requires_grad=True)]


def test_equals_the_formula() -> None:
    q, k, scale, bias = given = leaves()
    ours = pairwise_sigmoid(q, k, scale=scale, bias=bias)
    theirs = torch.stack(
        [
            -sum(torch.log(torch.sigmoid((1 if i == j else -1) * (scale * (q[i] @ k[j]) + bias))) for j in range(5))
            for i in range(5)
        ]
    )
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours.mean(), given), torch.autograd.grad(theirs.mean(), given), strict=True):
        torch.testing.assert_close(a, b)


def test_equals_open_clip() -> None:
    open_clip = pytest.importorskip("open_clip")
    q, k, scale, bias = given = leaves()
    ours = pairwise_sigmoid(q, k, scale=scale, bias=bias).mean()
    theirs = open_clip.loss.SigLipLoss()(q, k, scale, bias)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, given), torch.autograd.grad(theirs, given), strict=True):
        torch.testing.assert_close(a, b)


def test_missing_keys_count_nothing() -> None:
    q, k, scale, bias = leaves()
    keep = torch.tensor([True, True, False, True, False])
    ours = pairwise_sigmoid(q, k, scale=scale, bias=bias, keep=keep)[keep]
    torch.testing.assert_close(ours, pairwise_sigmoid(q[keep], k[keep], scale=scale, bias=bias))
