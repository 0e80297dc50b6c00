"""Communities of a weighted network by the map equation: groups within which a random walk stays long; and which
clusters of cells lie beside each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
GAIN = 1e-12  # bits below which a change is none


def code_length(weights: Array, labels: NDArray[np.int64], *, markov_time: float = 1.0) -> float:
    """Returns the bits a step that describing a random walk takes, with a code for each community and one between them.

    weights: (N, N) symmetric. markov_time: steps between two that are described; the longer, the fewer communities are
    worth it. Rosvall & Bergstrom, PNAS 2008; Kheirkhahzadeh et al., Physical Review E 2016 (Markov time).
    """
    flow = weights / weights.sum()
    nodes = flow.sum(axis=1)
    member = labels[:, None] == np.unique(labels)  # (N, M)
    inside, stays = nodes @ member, np.einsum("im,ij,jm->m", member, flow, member)
    leaves = markov_time * (inside - stays)
    return float(_x(leaves.sum()) - 2 * _x(leaves).sum() - _x(nodes).sum() + _x(leaves + inside).sum())


def communities(weights: Array, *, markov_time: float = 1.0, tries: int = 10) -> NDArray[np.int64]:
    """Returns the community of each node, (N,) numbered from 0, by moving nodes, then groups of them, to others.

    Each goes where the walk is described shortest, in random order, until none gains; a node without links stays alone.
    Of several tries the shortest description counts. The two-level Infomap of Rosvall & Bergstrom, PNAS 2008, in its
    greedy form.
    """
    if not weights.sum():
        return np.arange(len(weights))
    found = [_found(weights, markov_time, np.random.default_rng(seed)) for seed in range(tries)]
    return min(found, key=lambda labels: code_length(weights, labels, markov_time=markov_time))


def _found(weights: Array, markov_time: float, rng: np.random.Generator) -> NDArray[np.int64]:
    labels, flow = np.arange(len(weights)), weights / weights.sum()
    before = np.inf
    while (now := code_length(weights, labels, markov_time=markov_time)) < before - GAIN:
        before = now
        labels = _moved(flow, labels, markov_time, rng)  # nodes one by one
        while len(groups := np.unique(labels)) > 1:
            member = (labels[:, None] == groups).astype(float)
            merged = _moved(member.T @ flow @ member, np.arange(len(groups)), markov_time, rng)
            if len(np.unique(merged)) == len(groups):
                break
            labels = merged[np.searchsorted(groups, labels)]
    return np.unique(labels, return_inverse=True)[1]


def neighborhood(labels: NDArray[np.int64], count: int) -> Array:
    """Returns how probably a cluster's neighbour of another kind is of each one, (K, K), of label maps (n, H, W).

    Neighbours are the eight cells around one; probabilities of each image that shows the cluster beside others are
    averaged.
    """
    total, times = np.zeros((count, count)), np.zeros(count)
    for image in labels:
        pairs = np.zeros((count, count))
        for one, other in (
            (image[:, 1:], image[:, :-1]),
            (image[1:], image[:-1]),
            (image[1:, 1:], image[:-1, :-1]),
            (image[1:, :-1], image[:-1, 1:]),
        ):
            np.add.at(pairs, (one.ravel(), other.ravel()), 1)
        pairs = pairs + pairs.T
        np.fill_diagonal(pairs, 0)
        rows = pairs.sum(axis=1)
        total += pairs / np.maximum(rows, 1)[:, None]
        times += rows > 0
    return total / np.maximum(times, 1)[:, None]


def _moved(flow: Array, labels: NDArray[np.int64], time: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Moves the nodes of a network (N, N), whose flows sum to 1, between groups until none gains by it."""
    labels, nodes = labels.copy(), flow.sum(axis=1)
    links = flow * (1 - np.eye(len(flow)))
    out = links.sum(axis=1)
    count = max(len(flow), labels.max() + 1)
    inside: Array = np.bincount(labels, nodes, count).astype(np.float64)
    leaves: Array = np.zeros(count)
    np.add.at(leaves, labels, out - np.where(labels[:, None] == labels, links, 0).sum(axis=1))
    changed = True
    while changed:
        changed = False
        for node in rng.permutation(len(flow)):
            own, towards = labels[node], np.bincount(labels, links[node], count)
            near = np.unique(labels[links[node] > 0])
            without = inside[own] - nodes[node], leaves[own] - out[node] + 2 * towards[own]
            gains = {int(own): 0.0}
            for other in near[near != own]:
                joined = inside[other] + nodes[node], leaves[other] + out[node] - 2 * towards[other]
                gains[int(other)] = _change(
                    (inside[[own, other]], leaves[[own, other]]), np.array([without, joined]).T, leaves.sum(), time
                )
            best = min(gains, key=lambda group: gains[group])
            if gains[best] < -GAIN:
                joined = inside[best] + nodes[node], leaves[best] + out[node] - 2 * towards[best]
                (inside[own], leaves[own]), (inside[best], leaves[best]) = without, joined
                labels[node], changed = best, True
    return labels


def _change(old: tuple[Array, Array], new: Array, total: float, time: float) -> float:
    """Returns by how much the code gets longer where two groups' flows inside and out of them change."""
    found = _x(np.array(time * (total - old[1].sum() + new[1].sum()))) - _x(np.array(time * total))
    for sign, (inside, leaves) in ((-1, old), (1, (new[0], new[1]))):
        leaves = time * np.maximum(leaves, 0)
        found = found + sign * (_x(leaves + inside).sum() - 2 * _x(leaves).sum())
    return float(found)


def _x(p: Array) -> Array:
    """Returns p log2 p, 0 for 0."""
    return np.where(p > 0, p * np.log2(np.maximum(p, 1e-300)), 0.0)
