"""Label propagation against a dense closed form, loops over single points, and graphs worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mmssl.numerics import propagation
from mmssl.numerics.propagation import by_neighbors, by_spectrum


def points(count: int, classes: int, *, seed: int = 0, spread: float = 0.6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % classes
    return torch.eye(6)[y] + spread * torch.randn(count, 6, generator=generator), y


def some(y: Tensor, known: list[int]) -> Tensor:
    return torch.full_like(y, -1).index_copy(0, torch.tensor(known), y[known])


def dense(x: Tensor, labels: Tensor, *, classes: int, neighbors: int, vectors: int) -> tuple[np.ndarray, np.ndarray]:
    """The authors' notebook in whole matrices: all scores, and the eigenvectors 2 to `vectors` of all."""
    unit = (x / x.norm(dim=1, keepdim=True)).double().numpy()
    cosine = unit @ unit.T
    near = np.zeros_like(cosine)
    for row, values in enumerate(cosine):
        for place in np.argsort(-values)[:neighbors]:
            near[row, place] = math.exp(-(1 - values[place]) / 0.2)
    weights = (near + near.T) / 2
    degree = weights.sum(axis=0)
    apart = weights - np.diag(np.diag(weights))
    root = np.sqrt(apart.sum(axis=0))
    values, vectors_ = np.linalg.eigh(np.eye(len(x)) - apart / root[:, None] / root)
    values, basis = values[1:vectors], vectors_[:, 1:vectors]
    wanted = np.zeros((len(x), classes))
    for row, label in enumerate(labels.tolist()):
        if label >= 0:
            wanted[row] = -math.sqrt(degree[row])
            wanted[row, label] = math.sqrt(degree[row])
    for column in wanted.T:
        above, below = column > 0, column < 0
        ratio = math.sqrt((column[above] ** 2).sum() / (column[below] ** 2).sum())
        column[above] /= ratio
        column[below] *= ratio
    scores = basis / values @ (basis.T @ (wanted / np.linalg.norm(wanted, axis=0)))
    scores *= math.sqrt(len(x)) / np.linalg.norm(scores, axis=0)
    first, second = np.sort(scores, axis=1)[:, ::-1].T[:2]
    return scores.argmax(axis=1), 1 - np.exp(second - first)


@pytest.mark.parametrize("vectors", [7, 40])  # some by Lanczos' method, more than half of all by a dense one
@pytest.mark.parametrize("held", [propagation.HELD, 50])
def test_the_spectrum_is_that_of_whole_matrices(vectors: int, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagation, "HELD", held)
    x, y = points(60, 3)
    labels = some(y, [0, 1, 2, 3, 7, 31])
    found, confidence = by_spectrum(x, labels, classes=3, neighbors=9, vectors=vectors)
    expected, sure = dense(x, labels, classes=3, neighbors=9, vectors=vectors)
    free = (labels < 0).numpy()
    assert found[free].tolist() == expected[free].tolist()
    np.testing.assert_allclose(confidence[free].numpy(), sure[free], rtol=1e-4, atol=1e-5)
    assert found[~free].tolist() == labels[~free].tolist() and (confidence[~free] == 1).all()
    assert confidence.dtype == torch.float32


def test_labels_spread_along_a_chain_and_not_by_the_nearest_label() -> None:
    """Two arcs of a circle; the end of the first lies nearer to the label of the second than to its own."""
    angles = torch.cat([torch.linspace(0, 2.0, 30), torch.linspace(2.3, 4.3, 30)])
    x, y = torch.stack([angles.cos(), angles.sin()], dim=1), torch.arange(60) // 30
    labels = some(y, [0, 30])
    assert by_spectrum(x, labels, classes=2, neighbors=4, vectors=8)[0].tolist() == y.tolist()
    assert by_neighbors(x, labels, classes=2, neighbors=1)[0].tolist() != y.tolist()


def test_a_graph_in_two_parts_gives_each_its_label() -> None:
    x = torch.cat([torch.eye(6)[:2].repeat(10, 1)]) + 1e-3 * torch.randn(
        20, 6, generator=torch.Generator().manual_seed(1)
    )
    labels = torch.full((20,), -1)
    labels[4], labels[7] = 1, 0
    found, confidence = by_spectrum(x, labels, classes=2, neighbors=5, vectors=6)
    assert found.tolist() == [1, 0] * 10 and confidence.min() > 0.5


def test_a_label_stays_whatever_stands_around_it() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, -0.01], [0.0, 1.0]])
    found, confidence = by_neighbors(x, torch.tensor([0, 1, 1, -1]), classes=2, neighbors=3)
    assert found.tolist() == [0, 1, 1, 1] and confidence[:3].tolist() == [1, 1, 1]


@pytest.mark.parametrize("held", [propagation.HELD, 7])
def test_neighbors_vote_with_their_closeness(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagation, "HELD", held)
    x, y = points(30, 3, spread=1.0)
    labels = some(y, [1, 4, 6, 8, 17, 29])
    found, confidence = by_neighbors(x, labels, classes=3, neighbors=4)
    for row in range(30):
        cosines = torch.nn.functional.cosine_similarity(x[row][None], x).where(labels >= 0, -2.0)
        votes = [0.0] * 3
        for place in cosines.argsort(descending=True)[:4].tolist():
            votes[int(labels[place])] += math.exp(cosines[place].item() / 0.1)
        best = max(range(3), key=votes.__getitem__)
        known = labels[row] >= 0
        assert found[row] == (labels[row] if known else best)
        assert confidence[row] == pytest.approx(1.0 if known else votes[best] / sum(votes), rel=1e-4)
