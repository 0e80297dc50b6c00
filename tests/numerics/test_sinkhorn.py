"""Sinkhorn-Knopp against its formula and lightly's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmssl import dist
from mmssl.numerics.sinkhorn import sinkhorn


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


def test_a_process_without_samples_gives_none() -> None:
    found = sinkhorn(torch.zeros(0, 5), epsilon=0.05, iterations=3)
    assert found.shape == (0, 5)


def test_it_counts_in_float32_and_gives_no_gradient() -> None:
    scores = cosines(13, 7)
    found = sinkhorn(scores.bfloat16().requires_grad_(), epsilon=0.05, iterations=3)
    assert found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found.double(), plain(scores.bfloat16(), 0.05, 3), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 1])
def test_clusters_are_evened_over_all_processes(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """Two processes, of 5 and of 8 samples, of which some are absent; what the other sends is worked out beforehand."""
    scores, present = cosines(13, 7), torch.arange(13) % 4 != 1
    mine = slice(0, 5) if rank == 0 else slice(5, 13)
    other = slice(5, 13) if rank == 0 else slice(0, 5)
    logs = {"mine": scores[mine] / 0.1, "other": scores[other] / 0.1}

    def gather(own: torch.Tensor) -> torch.Tensor:
        """Gives this process's sums and the other's, which counts along."""
        theirs = logs["other"][present[other]].logsumexp(dim=0, keepdim=True)
        both = torch.cat([own, theirs] if rank == 0 else [theirs, own])
        columns = both.logsumexp(dim=0)
        left = logs["other"] - columns
        logs["other"] = left - left.logsumexp(dim=1, keepdim=True)
        return both

    monkeypatch.setattr(dist, "gather", gather)
    found = sinkhorn(scores[mine], epsilon=0.1, iterations=3, present=present[mine])
    there = present.nonzero()[:, 0].tolist()
    expected = plain(scores[present], 0.1, 3)
    for row, own in zip(range(13)[mine], found, strict=True):
        if row in there:
            torch.testing.assert_close(own.double(), expected[there.index(row)], rtol=1e-4, atol=1e-6)


def test_clusters_receive_the_shares_that_are_asked_for() -> None:
    shares = torch.tensor([0.5, 1.0, 1.5, 2.0])
    found = sinkhorn(cosines(60, 4), epsilon=0.1, iterations=200, shares=shares)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(60))
    torch.testing.assert_close(found.sum(dim=0), shares * 12, rtol=1e-4, atol=1e-3)
