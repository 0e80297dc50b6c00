"""InfoNCE against its formula, and open_clip's loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce


def pairs(n: int = 6, d: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    q, k = (F.normalize(torch.randn(n, d, dtype=torch.double), dim=1).float().requires_grad_() for _ in "qk")
    return q, k


def loss(q: torch.Tensor, k: torch.Tensor, **options: Any) -> torch.Tensor:
    return info_nce(Contrast(q, k, **options))


def by_hand(q: torch.Tensor, k: torch.Tensor, scale: float, positives: list[list[int]]) -> torch.Tensor:
    """-mean over positives of log(exp(s qp) / sum_j exp(s qj)), written out."""
    losses = []
    for i, right in enumerate(positives):
        e = torch.stack([torch.exp(scale * (q[i] * key).sum()) for key in k])
        losses.append(-torch.stack([torch.log(e[j] / e.sum()) for j in right]).mean())
    return torch.stack(losses)


def same(ours: torch.Tensor, theirs: torch.Tensor, *leaves: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for a, b in zip(torch.autograd.grad(ours.sum(), leaves), torch.autograd.grad(theirs.sum(), leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_one_positive_equals_the_formula() -> None:
    q, k = pairs()
    same(loss(q, k, scale=7.0), by_hand(q, k, 7.0, [[i] for i in range(6)]), q, k)


def test_several_positives_average_their_log_likelihoods() -> None:
    q, k = pairs()
    right = [[0, 3], [1], [2, 4, 5], [3], [4, 0], [5]]
    mask = torch.zeros(6, 6, dtype=torch.bool)
    for i, js in enumerate(right):
        mask[i, js] = True
    same(loss(q, k, scale=3.0, positives=mask), by_hand(q, k, 3.0, right), q, k)


def test_further_negatives_join_the_denominator() -> None:
    q, k = pairs()
    queue = F.normalize(torch.randn(4, 5), dim=1)
    same(
        loss(q, torch.cat([k, queue]), scale=5.0),
        by_hand(q, torch.cat([k, queue]), 5.0, [[i] for i in range(6)]),
        q,
        k,
    )


@pytest.mark.parametrize("kind", ["index", "mask"])
def test_keys_that_are_missing_change_nothing(kind: str) -> None:
    q, k = pairs()
    keep = torch.tensor([True, False, True, True, False, True])
    positives = None if kind == "index" else torch.eye(6, dtype=torch.bool)
    ours = loss(q, k, scale=5.0, positives=positives, keep=keep)
    assert (ours[~keep] == 0).all()
    same(ours[keep], loss(q[keep], k[keep], scale=5.0), q, k)


def test_no_key_at_all_is_zero_with_a_finite_gradient() -> None:
    q, k = pairs()
    found = loss(q, k, scale=5.0, keep=torch.zeros(6, dtype=torch.bool)).sum()
    assert found == 0
    assert all(g.isfinite().all() for g in torch.autograd.grad(found, [q, k]))


def test_both_directions_equal_open_clip() -> None:
    open_clip = pytest.importorskip("open_clip")
    q, k = pairs()
    scale = torch.tensor(9.0, requires_grad=True)
    ours = (loss(q, k, scale=scale).mean() + loss(k, q, scale=scale).mean()) / 2
    same(ours, open_clip.loss.ClipLoss()(q, k, scale), q, k, scale)


def test_autocast_does_not_lower_its_precision() -> None:
    q, k = pairs()
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(q, k, scale=50.0)
    torch.testing.assert_close(inside, loss(q, k, scale=50.0))


def test_the_positive_key_may_stand_anywhere() -> None:
    q, k = pairs()
    places = torch.tensor([3, 3, 0, 5, 1, 2])
    same(loss(q, k, scale=4.0, positives=places), by_hand(q, k, 4.0, [[i] for i in places.tolist()]), q, k)
    keep = torch.tensor([True, False, True, True, False, True])
    ours = loss(q, k, scale=4.0, positives=places, keep=keep)
    assert ours[4] == 0, "its key does not exist"
    kept, renumbered = [0, 1, 2, 3, 5], [[2], [2], [0], [3], [1]]
    same(ours[kept], by_hand(q[kept], k[keep], 4.0, renumbered), q, k)


def test_several_positives_among_keys_that_are_missing_and_further_negatives() -> None:
    q, k = pairs()
    queue = F.normalize(torch.randn(4, 5), dim=1)
    keep = torch.tensor([True, False, True, True, False, True, *[True] * 4])
    mask = torch.zeros(6, 10, dtype=torch.bool)
    for i, js in enumerate([[0, 1, 3], [1], [2, 5], [3], [0, 4], []]):
        mask[i, js] = True
    ours = loss(q, torch.cat([k, queue]), scale=3.0, positives=mask, keep=keep)
    assert ours[1] == ours[5] == 0, "no positive is kept"
    some, among = [0, 2, 3, 4], torch.cat([k, queue])[keep]  # keys 0, 2, 3, 5
    assert all(g.isfinite().all() for g in torch.autograd.grad(ours.sum(), [q, k], retain_graph=True))
    same(ours[some], by_hand(q[some], among, 3.0, [[0, 2], [1, 3], [2], [0]]), q, k)


def test_a_learnt_scale_reaches_keys_and_further_negatives() -> None:
    q, k = pairs()
    queue = F.normalize(torch.randn(4, 5), dim=1)
    scale = torch.tensor(4.0, requires_grad=True)
    ours = loss(q, torch.cat([k, queue]), scale=scale)
    logits = scale * (q @ torch.cat([k, queue]).T)
    same(ours, F.cross_entropy(logits, torch.arange(6), reduction="none"), q, k, scale)
