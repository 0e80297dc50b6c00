"""Sinkhorn-Knopp against its formula and lightly's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmssl.nn.sinkhorn import sinkhorn


def plain(scores: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """Rows and columns of the exponentials divided in turn, in double precision."""
    q = (scores.double() / epsilon).exp().T  # (K, B)
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(dim=1, keepdim=True) * q.shape[0]
        q /= q.sum(dim=0, keepdim=True) * q.shape[1]
    return (q * q.shape[1]).T


def cosines(rows: int, clusters: int) -> torch.Tensor:
    torch.manual_seed(0)
    return F.normalize(torch.randn(rows, 8), dim=1) @ F.normalize(torch.randn(clusters, 8), dim=1).T


def test_equals_the_formula() -> None:
    scores = cosines(13, 7)
    for iterations in (1, 3, 10):
        found = sinkhorn(scores, epsilon=0.05, iterations=iterations)
        torch.testing.assert_close(found.double(), plain(scores, 0.05, iterations), rtol=1e-4, atol=1e-6)


def test_equals_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss.swav_loss")
    scores = cosines(64, 30)
    torch.testing.assert_close(
        sinkhorn(scores, epsilon=0.05, iterations=3), lightly.sinkhorn(scores, 3, 0.05), rtol=1e-4, atol=1e-6
    )


def test_clusters_receive_equal_shares() -> None:
    found = sinkhorn(cosines(60, 6), epsilon=0.1, iterations=200)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(60))
    torch.testing.assert_close(found.sum(dim=0), torch.full((6,), 10.0))


def test_scores_of_any_size_stay_finite() -> None:
    found = sinkhorn(cosines(20, 5) * 1000, epsilon=0.05, iterations=50)
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(20))


def test_absent_samples_count_nowhere() -> None:
    scores = cosines(12, 5)
    present = torch.arange(12) % 3 != 1
    found = sinkhorn(scores, epsilon=0.05, iterations=3, present=present)
    torch.testing.assert_close(found[present], sinkhorn(scores[present], epsilon=0.05, iterations=3))
    assert sinkhorn(scores, epsilon=0.05, iterations=3, present=torch.zeros(12, dtype=torch.bool)).isfinite().all()
