"""Label propagation: the classes of all points from those of a few, by how alike points are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmssl.numerics.neighbors import nearest

SHARPNESS = 0.2  # a pair weighs exp(-(1 - cosine) / 0.2) in the graph
TEMPERATURE = 0.1  # a neighbour weighs exp(cosine / 0.1) in a vote
LEAST = 1e-6  # eigenvalues below count as this: a graph in several parts has several of 0
HELD = 2**24  # scores held at a time

Spread = tuple[Tensor, Tensor]


def by_neighbors(x: Tensor, labels: Tensor, *, classes: int, neighbors: int) -> Spread:
    """Propagates the labels of a few of points x (N, D), the others -1, by a vote of the nearest labelled ones.

    Returns each point's class (N,) and its confidence (N,), from 0 to 1: the share of the vote that the class has. A
    point with a label keeps it, with confidence 1. Liu et al., 2018.
    """
    known = (labels >= 0).nonzero()[:, 0]
    found = []
    for part in x.split(max(1, HELD // classes)):
        similar, places = nearest(x[known], part, neighbors)
        weights = ((similar - similar[:, :1]) / TEMPERATURE).exp()
        votes = weights.new_zeros(len(part), classes).scatter_add_(1, labels[known][places], weights)
        found.append((votes / votes.sum(dim=1, keepdim=True)).max(dim=1))
    share, best = (torch.cat(parts) for parts in zip(*found, strict=True))
    return _kept(best, share, labels)


def by_spectrum(x: Tensor, labels: Tensor, *, classes: int, neighbors: int, vectors: int) -> Spread:
    """Propagates labels as `by_neighbors` does, by a normalized cut of the graph of neighbours under these constraints.

    neighbors: of each point in the graph, itself among them. vectors: eigenvectors of the graph's normalized Laplacian.
    A class's score is what the smooth part of the graph makes of its labels; the confidence is 1 - exp(-margin) of the
    best score over the second. Liu et al., 2018; Eriksson et al., ICCV 2007, for the constraints.
    """
    graph, known = _graph(x, neighbors), (labels >= 0).nonzero()[:, 0].cpu().numpy()
    degree = np.asarray(graph.sum(axis=0)).ravel()
    wanted = _constraints(labels.cpu().numpy()[known], degree[known], classes)
    values, basis, plain = _spectrum(graph, vectors)
    inside = basis[known].T @ wanted - np.outer(basis.T @ plain, plain[known] @ wanted)
    inside /= np.maximum(values, LEAST)[:, None]
    inside *= math.sqrt(len(x)) / np.maximum(np.linalg.norm(inside, axis=0), 1e-12)  # so has the class's every score
    found = []
    for rows in torch.from_numpy(basis).split(max(1, HELD // classes)):
        best, order = (rows @ torch.from_numpy(inside)).topk(2, dim=1)
        found.append((order[:, 0], (1 - (best[:, 1] - best[:, 0]).exp()).float()))
    named, confidence = (torch.cat(parts).to(x.device) for parts in zip(*found, strict=True))
    return _kept(named, confidence, labels)


def _kept(found: Tensor, confidence: Tensor, labels: Tensor) -> Spread:
    known = labels >= 0
    return labels.where(known, found), confidence.masked_fill(known, 1.0)


def _graph(x: Tensor, neighbors: int) -> Any:
    """Returns the symmetric weights (N, N), sparse, of points and their nearest by cosine."""
    from scipy.sparse import csr_array

    similar, places = (part.cpu().numpy() for part in nearest(x, x, neighbors))
    starts = np.arange(len(x) + 1) * places.shape[1]
    near = np.exp((similar.astype(np.float64) - 1) / SHARPNESS)
    weights = csr_array((near.ravel(), places.ravel(), starts), shape=(len(x), len(x)))
    return (weights + weights.T) / 2


def _constraints(labels: Any, degree: Any, classes: int) -> Any:
    """Returns for each class a vector of length 1 over the labelled points (n, C): above 0 at its own, else below."""
    own = (labels[:, None] == np.arange(classes)) * np.sqrt(degree)[:, None]
    other = np.sqrt(degree)[:, None] - own
    ratio = np.linalg.norm(own, axis=0) / np.maximum(np.linalg.norm(other, axis=0), 1e-12)
    made = own / np.maximum(ratio, 1e-12) - other * ratio
    return made / np.maximum(np.linalg.norm(made, axis=0), 1e-12)


def _spectrum(graph: Any, count: int) -> tuple[Any, Any, Any]:
    """Returns the smallest eigenvalues (k,) of the graph's normalized Laplacian, their vectors (N, k), and that of 0.

    The last (N,) is the same for every graph in one part, and tells no points apart.
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import eigsh

    size = graph.shape[0]
    graph = graph - diags_array(graph.diagonal())
    root = np.sqrt(np.maximum(np.asarray(graph.sum(axis=0)).ravel(), 1e-12))
    near = diags_array(1 / root) @ graph @ diags_array(1 / root)
    if 2 * count < size:
        values, basis = eigsh(near, k=count, which="LA", v0=np.random.default_rng(0).standard_normal(size))
    else:
        values, basis = np.linalg.eigh(near.toarray())
        values, basis = values[-count:], basis[:, -count:]
    return 1 - values, np.ascontiguousarray(basis), root / np.linalg.norm(root)
