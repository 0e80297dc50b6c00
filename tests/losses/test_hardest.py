"""Hardest-contrastive against slow loops, in value and gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.losses.hardest import hardest_negative, is_known, positive_margin


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1).requires_grad_()


def same(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for x, y in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


def test_positive_margin() -> None:
    a, b = unit(30, 5), unit(30, 5)
    terms = [((p - q) ** 2).sum() - 1.5 for p, q in zip(a, b, strict=True)]
    expected = torch.stack([term for term in terms if term > 0]).sum()
    assert any(term < 0 for term in terms)
    same(positive_margin(a, b, margin=1.5).sum(), expected, [a, b])


def test_hardest_negative() -> None:
    a, c = unit(40, 3), unit(12, 3)
    query_id, candidate_id = torch.randperm(100)[:40], torch.randperm(50)[:12]
    known = torch.stack([torch.randint(100, (4000,)), torch.randint(50, (4000,))], dim=1)
    pairs = set(map(tuple, known.tolist()))
    expected, counts = [], []
    for i, query in enumerate(a):
        distances = [((query - candidate) ** 2).sum().add(1e-7).sqrt() for candidate in c]
        nearest = min(range(12), key=lambda j, d=distances: d[j].item())
        expected.append((1.4 - distances[nearest]).clamp(min=0) ** 2)
        counts.append((query_id[i].item(), candidate_id[nearest].item()) not in pairs)
    found, kept = hardest_negative(a, c, query_id=query_id, candidate_id=candidate_id, known=known)
    assert kept.tolist() == counts
    assert 5 < sum(counts) < 35, "both cases occur"
    same(found[kept].sum(), torch.stack(expected)[kept].sum(), [a, c])


def test_pairs_are_known_by_both_numbers() -> None:
    known = torch.tensor([[3, 0], [2, 7]])
    first, second = torch.tensor([3, 2, 3, 2, 0, 2, 3]), torch.tensor([0, 7, 7, 0, 3, 6, -1])
    assert is_known(first, second, known).tolist() == [True, True, False, False, False, False, False]
    assert is_known(torch.tensor([3]), torch.tensor([-1]), torch.tensor([[2, 7], [2, 6]])).tolist() == [False]
    assert is_known(first, second, known[:0]).tolist() == [False] * 7


def test_nothing_to_compare_is_zero() -> None:
    a, c = unit(4, 3), unit(2, 3)
    none = torch.zeros(0, 2, dtype=torch.long)
    rows = torch.arange(4)
    found, kept = hardest_negative(a, c[:0], query_id=rows, candidate_id=rows[:0], known=none)
    assert not kept.any()
    assert found.sum() == 0
    assert torch.autograd.grad(found.sum(), a)[0].shape == a.shape
    found, kept = hardest_negative(a[:0], c, query_id=rows[:0], candidate_id=rows[:2], known=none)
    assert len(found) == len(kept) == 0
    assert torch.autograd.grad(found.sum(), c)[0].abs().sum() == 0


def test_margins_by_default_are_fcgfs() -> None:
    """Choy et al., ICCV 2019: 0.1 and 1.4."""
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])  # 0.8 apart, squared
    torch.testing.assert_close(positive_margin(a, b), torch.tensor([0.7]))
    ids, none = torch.zeros(1, dtype=torch.long), torch.zeros(0, 2, dtype=torch.long)
    found, counts = hardest_negative(a, b, query_id=ids, candidate_id=ids, known=none)
    torch.testing.assert_close(found, torch.tensor([(1.4 - 0.8**0.5) ** 2]))
    assert counts.tolist() == [True]


def test_distances_are_in_float32_and_have_a_gradient_at_nothing() -> None:
    a, c = unit(9, 5), unit(4, 5)
    ids = {"query_id": torch.arange(9), "candidate_id": torch.arange(4), "known": torch.zeros(0, 2, dtype=torch.long)}
    expected = hardest_negative(a.bfloat16().float(), c.bfloat16().float(), **ids)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = hardest_negative(a.bfloat16(), c.bfloat16(), **ids)[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    assert positive_margin(a.bfloat16(), a.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(
        positive_margin(a.bfloat16(), c[:1].bfloat16(), margin=0.2),
        positive_margin(a.bfloat16().float(), c[:1].bfloat16().float(), margin=0.2),
    )
    same = a.detach()[:1].clone().requires_grad_()
    found, _ = hardest_negative(same, a.detach()[:1], **ids | {"query_id": ids["query_id"][:1]})
    found.sum().backward()
    assert same.grad is not None and same.grad.isfinite().all()
    torch.testing.assert_close(found, torch.tensor([(1.4 - 1e-7**0.5) ** 2]), rtol=1e-6, atol=0)
    nothing, counts = hardest_negative(a.bfloat16(), c[:0].bfloat16(), **ids | {"candidate_id": torch.arange(0)})
    assert nothing.tolist() == [0.0] * 9 and nothing.dtype == torch.float32 and counts.shape == (9,)


def test_the_nearest_is_found_in_float32_under_autocast() -> None:
    """Two candidates that bfloat16 does not tell apart, the nearer one second."""
    angles = torch.tensor([0.0, 0.045, 0.03])
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    ids = {"query_id": torch.zeros(1).long(), "candidate_id": torch.arange(2), "known": torch.tensor([[0, 1]])}
    with torch.autocast("cpu", torch.bfloat16):
        found, counts = hardest_negative(rows[:1], rows[1:], **ids)
    torch.testing.assert_close(found, (1.4 - ((rows[0] - rows[2]).square().sum() + 1e-7).sqrt()).square()[None])
    assert not counts.any(), "it is the second, which is known to match"
