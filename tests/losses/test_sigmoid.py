import pytest
import torch
from torch.nn import functional as F

from mmssl.losses.contrast import Contrast
from mmssl.losses.sigmoid import pairwise_sigmoid


def leaves() -> list[torch.Tensor]:
    q, k = (F.normalize(torch.randn(5, 4), dim=1).requires_grad_() for _ in "qk")
    return [q, k, torch.tensor(8.0, requires_grad=True), torch.tensor(-4.0, requires_grad=True)]


def test_equals_the_formula() -> None:
    q, k, scale, bias = given = leaves()
    ours = pairwise_sigmoid(Contrast(q, k, scale), bias=bias)
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
    ours = pairwise_sigmoid(Contrast(q, k, scale), bias=bias).mean()
    theirs = open_clip.loss.SigLipLoss()(q, k, scale, bias)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, given), torch.autograd.grad(theirs, given), strict=True):
        torch.testing.assert_close(a, b)


def test_missing_keys_count_nothing() -> None:
    q, k, scale, bias = leaves()
    keep = torch.tensor([True, True, False, True, False])
    ours = pairwise_sigmoid(Contrast(q, k, scale, keep=keep), bias=bias)[keep]
    torch.testing.assert_close(ours, pairwise_sigmoid(Contrast(q[keep], k[keep], scale), bias=bias))


def test_positives_are_given_by_number_or_several_of_them() -> None:
    q, k, scale, bias = given = leaves()
    for positives in (torch.tensor([2, 0, 1, 4, 4]), torch.rand(5, 5) > 0.6):
        chosen = torch.zeros(5, 5, dtype=torch.bool)
        if positives.dtype == torch.bool:
            chosen = positives
        else:
            chosen[range(5), positives] = True
        terms = [
            [-torch.log(torch.sigmoid((1 if chosen[i, j] else -1) * (scale * q[i] @ k[j] + bias))) for j in range(5)]
            for i in range(5)
        ]
        theirs = torch.stack([torch.stack(row).sum() for row in terms])
        ours = pairwise_sigmoid(Contrast(q, k, scale, positives=positives), bias=bias)
        torch.testing.assert_close(ours, theirs)
        pairs = zip(torch.autograd.grad(ours.sum(), given), torch.autograd.grad(theirs.sum(), given), strict=True)
        for a, b in pairs:
            torch.testing.assert_close(a, b)


def test_fewer_queries_than_keys_and_float32_under_autocast() -> None:
    q, k, scale, bias = (x.detach() for x in leaves())
    q, k = q[:3].bfloat16(), k.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = pairwise_sigmoid(Contrast(q, k, scale), bias=bias)
    assert found.dtype == torch.float32 and found.shape == (3,)
    logits = scale * q.float() @ k.float().T + bias
    signs = 2 * torch.eye(3, 5) - 1
    torch.testing.assert_close(found, torch.log1p(torch.exp(-signs * logits)).sum(1))
