"""k-means, plain and spherical: the start, one iteration, and the end, against plain loops."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.numerics import kmeans as clustering
from mmssl.numerics.kmeans import kmeans, most_similar, nearest, spherical_kmeans


def lloyd(x: Tensor, centres: Tensor) -> Tensor:
    """One iteration in numpy; no cluster may become empty."""
    points, old = x.double().numpy(), centres.double().numpy()
    labels = [int(np.argmin([((p - c) ** 2).sum() for c in old])) for p in points]
    new = np.stack(
        [points[[i for i, k in enumerate(labels) if k == cluster]].mean(axis=0) for cluster in range(len(old))]
    )
    return torch.tensor(new[np.argsort(new[:, 0])]).float()


def test_each_iteration_is_lloyds() -> None:
    x = torch.rand(40, 3)
    for seed in range(5):
        expected = kmeans(x, 4, iterations=0, seed=seed)
        assert all((x == centre).all(dim=1).any() for centre in expected), "the start is of the points"
        assert expected[:, 0].diff().ge(0).all()
        for iterations in range(1, 5):
            expected = lloyd(x, expected)
            torch.testing.assert_close(kmeans(x, 4, iterations=iterations, seed=seed), expected)
    ended = kmeans(x, 4)
    torch.testing.assert_close(lloyd(x, ended), ended)
    torch.testing.assert_close(ended, kmeans(x, 4, iterations=100, seed=0), rtol=0, atol=0)
    assert not kmeans(x, 4, seed=1).equal(kmeans(x, 4, seed=0))
    assert kmeans(x.double(), 4).dtype == torch.float32


def chances(x: Tensor, chosen: tuple[int, ...], count: int) -> dict[tuple[int, ...], float]:
    """How likely k-means++ (Arthur & Vassilvitskii, SODA 2007) goes on to choose each set of so many points."""
    if len(chosen) == count:
        return {tuple(sorted(chosen)): 1.0}
    weights = [min([float((p - x[k]).square().sum()) for k in chosen], default=1.0) for p in x]
    found: dict[tuple[int, ...], float] = {}
    for point, weight in enumerate(weights):
        for points, chance in chances(x, (*chosen, point), count).items() if weight else ():
            found[points] = found.get(points, 0.0) + chance * weight / sum(weights)
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_the_start_is_that_of_kmeans_plus_plus(count: int) -> None:
    x = torch.ones(4, 20)
    x[:, 0] = torch.tensor([0.0, 1.1, 2.2, 2.8])
    starts = [kmeans(x, count, iterations=0, seed=seed)[:, 0].tolist() for seed in range(1000)]
    found = [tuple(x[:, 0].tolist().index(value) for value in start) for start in starts]
    expected = chances(x, (), count)
    assert sum(expected.values()) == pytest.approx(1) and set(found) == set(expected)
    for points, chance in expected.items():
        assert found.count(points) / 1000 == pytest.approx(chance, abs=0.045), points  # three standard deviations


def test_a_further_start_looks_at_the_nearest_of_those_before() -> None:
    x = torch.tensor([[0.0], [0.0], [5.0], [5.0], [5.1], [9.0]])
    for seed in range(30):
        found = kmeans(x, 4, iterations=0, seed=seed)[:, 0].tolist()
        assert sorted(set(found)) == found, "no point is taken twice while others lie apart"
    twice = torch.tensor([[0.0], [1.0]])
    assert set(kmeans(twice, 5, iterations=0)[:, 0].tolist()) == {0.0, 1.0}, "more clusters than points"


def test_empty_clusters_move_to_the_points_that_lie_farthest(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([[0.0], [0.1], [10.0], [10.2], [50.0]])
    monkeypatch.setattr(clustering, "_spread", lambda *_: torch.tensor([[0.0], [900.0], [901.0]]))
    assert kmeans(x, 3, iterations=1)[:, 0].tolist() == pytest.approx([10.2, 14.06, 50.0])
    monkeypatch.setattr(clustering, "_spread", lambda *_: torch.tensor([[0.0], [9.0], [901.0], [902.0], [903.0]]))
    two = torch.tensor([[0.0], [8.0]])
    # of three empty clusters the first and the third get the farther point
    assert kmeans(two, 5, iterations=1)[:, 0].tolist() == [0.0, 0.0, 8.0, 8.0, 8.0]


def test_points_without_number_are_refused() -> None:
    for x in (torch.zeros(0, 2), torch.tensor([[0.0], [torch.nan]]), torch.tensor([[0.0], [torch.inf]])):
        with pytest.raises(UserError, match=f"at least one point, and all of them finite; found {len(x)}"):
            kmeans(x, 1)
    assert kmeans(torch.tensor([[3.0, 4.0]]), 1).tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("chunk", [1, 13, 2**24])
def test_the_nearest_and_the_most_similar_are_found_in_parts(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(clustering, "CHUNK", chunk)
    x, centres = torch.randn(23, 4), torch.randn(5, 4)
    labels, distances = nearest(x.double(), centres)
    squares = torch.stack([torch.stack([(a - b).square().sum() for b in centres]) for a in x])
    torch.testing.assert_close(distances, squares.min(dim=1).values)
    assert labels.equal(squares.argmin(dim=1))
    products = torch.stack([torch.stack([(a * b).sum() for b in centres]) for a in x])
    assert most_similar(x.double(), centres).equal(products.argmax(dim=1))


def test_only_so_many_distances_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "CHUNK", 20)
    sizes: list[int] = []
    cdist = torch.cdist

    def noted(a: Tensor, b: Tensor, **options: str) -> Tensor:
        sizes.append(len(a) * len(b))
        return cdist(a, b, **options)

    monkeypatch.setattr(torch, "cdist", noted)
    nearest(torch.randn(23, 4), torch.randn(5, 4))
    assert sizes == [20] * 5 + [15]


def test_far_points_are_told_apart_exactly() -> None:
    far = torch.tensor([[1e4, 0.0], [1e4, 1.0], [1e4, 2.0]])
    labels, distances = nearest(far, far + 0.25)
    assert labels.tolist() == [0, 1, 2]
    torch.testing.assert_close(distances, torch.full((3,), 0.125), rtol=1e-2, atol=0)


def spherical_step(x: Tensor, centres: Tensor) -> Tensor:
    new = centres.clone()
    labels = [max(range(len(centres)), key=lambda k, p=p: float(p @ centres[k])) for p in x]
    for k in range(len(centres)):
        mine = [p for p, label in zip(x, labels, strict=True) if label == k]
        if mine:
            total = torch.stack(mine).sum(dim=0)
            new[k] = total / total.norm()
    return new


def test_each_spherical_iteration_is_dhillon_and_modhas() -> None:
    x = torch.nn.functional.normalize(torch.randn(30, 3), dim=1)
    for seed in range(3):
        expected = spherical_kmeans(x, 6, iterations=0, seed=seed)
        assert all((x == centre).all(dim=1).any() for centre in expected) and len(expected.unique(dim=0)) == 6
        for iterations in range(1, 5):
            expected = spherical_step(x, expected)
            torch.testing.assert_close(spherical_kmeans(x, 6, iterations=iterations, seed=seed), expected)
    assert not spherical_kmeans(x, 6, iterations=0).equal(spherical_kmeans(x, 6, iterations=0, seed=1))
    torch.testing.assert_close(spherical_kmeans(x, 6), spherical_kmeans(x, 6, iterations=10, seed=0), rtol=0, atol=0)
    assert spherical_kmeans(x.double(), 6).dtype == torch.float32


def test_an_empty_spherical_cluster_stays_where_it_is() -> None:
    """Two equal points are both drawn as a start: the second gets nothing."""
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    for seed in range(4):
        found = spherical_kmeans(x, 3, iterations=2, seed=seed)
        assert sorted(found.tolist()) == [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    with pytest.raises(UserError, match="3 points do not make 4 clusters"):
        spherical_kmeans(x, 4)


def test_defaults() -> None:
    """DeepCluster-v2 takes ten iterations of spherical k-means (main_deepclusterv2.py, nmb_kmeans_iters)."""
    for kind, given in ((kmeans, {"iterations": 100, "seed": 0}), (spherical_kmeans, {"iterations": 10, "seed": 0})):
        assert {name: inspect.signature(kind).parameters[name].default for name in given} == given
    assert clustering.CHUNK == 2**24
