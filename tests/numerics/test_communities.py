"""The map equation by hand and against a walk's entropies; communities that lie there; neighbours of label maps."""

from __future__ import annotations

import numpy as np
import pytest

from mmssl.numerics.communities import code_length, communities, neighborhood


def cliques(*sizes: int, bridge: float = 0.1) -> np.ndarray:
    """Groups of nodes that are all linked, and one weak link from each group to the next."""
    weights, start = np.zeros((sum(sizes), sum(sizes))), 0
    for size in sizes:
        weights[start : start + size, start : start + size] = 1 - np.eye(size)
        if start:
            weights[start - 1, start] = weights[start, start - 1] = bridge
        start += size
    return weights


def entropy(p: list[float]) -> float:
    shares = np.array(p)[np.array(p) > 0]
    return float(-(shares / shares.sum() * np.log2(shares / shares.sum())).sum())


@pytest.mark.parametrize("time", [0.5, 1.0, 2.0])
def test_the_code_is_as_long_as_the_walks_entropies(time: float) -> None:
    """L = q H(Q) + sum of p_i H(P_i): exits among modules, and in each its nodes and exit (Rosvall 2008, eq. 1)."""
    weights, labels = cliques(3, 4, bridge=0.3), np.array([0, 0, 0, 5, 5, 5, 5])
    flow = weights / weights.sum()
    first = np.arange(7) < 3
    leaves = [time * flow[side][:, ~side].sum() for side in (first, ~first)]
    nodes = flow.sum(axis=1)
    expected = sum(leaves) * entropy(leaves)
    for exit_, group in zip(leaves, (nodes[:3], nodes[3:]), strict=True):
        expected += (exit_ + group.sum()) * entropy([exit_, *group])
    assert code_length(weights, labels, markov_time=time) == pytest.approx(expected, abs=1e-12)


def test_one_community_costs_the_entropy_of_the_nodes() -> None:
    weights = cliques(3, 3)
    shares = list(weights.sum(axis=1))
    assert code_length(weights, np.zeros(6, dtype=int)) == pytest.approx(entropy(shares))


def test_groups_that_are_linked_among_themselves_are_found() -> None:
    weights = cliques(4, 5, 3)
    order = np.random.default_rng(0).permutation(12)
    found = communities(weights[order][:, order])
    truth = np.array([0] * 4 + [1] * 5 + [2] * 3)[order]
    assert len(set(found)) == 3 and all(len(set(found[truth == group])) == 1 for group in range(3))
    assert set(communities(weights, markov_time=100.0)) == {0}, "the longer, the fewer"
    assert sorted(communities(np.zeros((3, 3)))) == [0, 1, 2]


def test_no_single_move_makes_the_code_shorter() -> None:
    rng = np.random.default_rng(1)
    weights = np.triu(rng.random((24, 24)) * (rng.random((24, 24)) < 0.2), 1)
    weights = weights + weights.T
    found = communities(weights, tries=1)
    best = code_length(weights, found)
    for node in range(24):
        for group in set(found):
            moved = found.copy()
            moved[node] = group
            assert code_length(weights, moved) >= best - 1e-9


def test_clusters_that_lie_beside_each_other() -> None:
    one = np.array([[0, 0, 1], [0, 2, 1]])
    # 0: neighbours of another kind (0,0): 2; (0,1): 1, 2, 1; (1,0): 2. 1: (0,2): 0, 2; (1,2): 0, 2. 2: three 0, two 1.
    two = np.array([[1, 1, 1], [1, 2, 2]])
    found = neighborhood(np.stack([one, two]), 4)
    expected = np.array([
        [0, 2 / 5, 3 / 5, 0],
        [2 / 4 / 2, 0, (2 / 4 + 1) / 2, 0],
        [3 / 5 / 2, (2 / 5 + 1) / 2, 0, 0],
        [0, 0, 0, 0],
    ])  # fmt: skip
    np.testing.assert_allclose(found, expected)
