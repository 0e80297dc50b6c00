"""Clustering against numpy's SVD and plain counts: centres know nothing of the test set; chance is by shuffling."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from probing import blobs, judged
from torch import Tensor

from mmssl.evals import cluster
from mmssl.evals.cluster import Cluster, _centred, adjusted_rand, assigned, mutual_information, reduced, table
from mmssl.evals.parts.labelled import Embedded
from mmssl.numerics.kmeans import kmeans
from mmssl.types import Score

SETS: dict[str, Any] = {"train": {"shards": "pipe:a"}, "data": {"shards": "pipe:b"}}  # never opened


def nmi(told: list[int], truth: list[int]) -> float:
    n = len(told)

    def entropy(values: list[Any]) -> float:
        return -sum(values.count(v) / n * math.log(values.count(v) / n) for v in set(values))

    both = entropy(told) + entropy(truth)
    return 2 * (both - entropy(list(zip(told, truth, strict=True)))) / both if both else 1.0


def ari(told: list[int], truth: list[int]) -> float:
    pairs = list(itertools.combinations(range(len(told)), 2))
    one = [told[i] == told[j] for i, j in pairs]
    two = [truth[i] == truth[j] for i, j in pairs]
    both, expected = sum(a and b for a, b in zip(one, two, strict=True)), sum(one) * sum(two) / len(pairs)
    room = (sum(one) + sum(two)) / 2 - expected
    return (both - expected) / room if room else 1.0


def best_accuracy(told: list[int], truth: list[int], count: int) -> float:
    """Gives each cluster a class of its own in every way there is."""
    names = list(range(max(count, max(truth) + 1)))
    return max(sum(p[t] == c for t, c in zip(told, truth, strict=True)) for p in itertools.permutations(names)) / len(
        told
    )


def prepared(known: Tensor, asked: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    mean = known.numpy().mean(0)
    _, _, directions = np.linalg.svd(known.numpy() - mean, full_matrices=False)
    parts = [(x.numpy() - mean) @ directions[:dims].T for x in (known, asked)]
    one, two = (torch.from_numpy(part / np.linalg.norm(part, axis=1, keepdims=True)) for part in parts)
    return one, two


@pytest.mark.parametrize(("clusters", "count"), [(None, 4), (3, 3), (6, 6)])
def test_figures_are_those_of_the_tightest_of_several_k_means(clusters: int | None, count: int) -> None:
    known, asked = blobs(60, 4, spread=1.6), blobs(24, 4, spread=1.6, seed=1)
    known.x += 1.0
    asked.x += 2.0
    x, z = prepared(known.x, asked.x, 8)
    tries = [kmeans(x, count, iterations=50, seed=seed) for seed in range(4)]
    spread = [sum(min(float((row - c).square().sum()) for c in centres) for row in x) for centres in tries]
    best = tries[spread.index(min(spread))]
    told = [min(range(count), key=lambda k: float((row - best[k]).square().sum())) for row in z]
    truth = asked.y.tolist()
    found = judged(Cluster(**SETS, clusters=clusters, restarts=4), known, asked)
    assert list(found) == ["NMI", "ARI", "accuracy"]
    assert found["NMI"].value == pytest.approx(nmi(told, truth)) and 0.1 < found["NMI"].value < 0.95
    assert found["ARI"].value == pytest.approx(ari(told, truth))
    assert found["accuracy"].value == pytest.approx(best_accuracy(told, truth, count))
    shuffles = [list(np.random.default_rng(seed).permutation(told)) for seed in range(50)]
    for name, figure, room in (("NMI", nmi, 0.04), ("ARI", ari, 0.04)):
        assert found[name].chance == pytest.approx(np.mean([figure(s, truth) for s in shuffles]), abs=room)
    guesses = [best_accuracy(s, truth, count) for s in shuffles[: 50 if count < 6 else 3]]
    assert found["accuracy"].chance == pytest.approx(np.mean(guesses), abs=0.06)
    assert {score.n for score in found.values()} == {24}
    for name in ("NMI", "ARI"):
        assert (found[name].low + found[name].high) / 2 == pytest.approx(found[name].value)
        assert 0 < found[name].high - found[name].low < 1
    once = judged(Cluster(**SETS, clusters=clusters, restarts=4), known, Embedded(asked.x[:7], asked.y[:7]))
    assert once["NMI"].value == pytest.approx(nmi(told[:7], truth[:7]))  # the others do not move the centres


def test_options_reach_k_means(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[tuple[Any, ...]] = []

    def record(x: Tensor, count: int, *, iterations: int, seed: int) -> Tensor:
        asked_for.append((tuple(x.shape), count, iterations, seed))
        return kmeans(x, count, iterations=iterations, seed=seed)

    monkeypatch.setattr(cluster, "kmeans", record)
    judged(Cluster(**SETS, clusters=5, pca=2, restarts=2, iterations=7), blobs(30, 3), blobs(9, 3))
    assert asked_for == [((30, 2), 5, 7, 0), ((30, 2), 5, 7, 1)]
    asked_for.clear()
    judged(Cluster(**SETS, restarts=1), blobs(30, 3), blobs(9, 3))
    assert asked_for == [((30, 8), 3, 50, 0)]


def test_classes_that_the_training_set_lacks_count_as_any() -> None:
    known, asked = blobs(40, 4, spread=0.1), blobs(25, 5, spread=0.1, seed=1)
    found = judged(Cluster(**SETS, clusters=5), blobs(40, 5, spread=0.1), asked)
    assert found["NMI"].value == found["accuracy"].value == 1.0
    found = judged(Cluster(**SETS), known, asked)
    assert found["accuracy"].value == pytest.approx(4 / 5) and found["NMI"].n == 25


def test_the_accuracy_of_each_class_is_by_hand() -> None:
    """Near axis 0 lie three ants and a cat, near axis 1 an ant and two bees, near axis 2 three cats and both yaks."""
    where = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 2, 2])
    y = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3])  # the training set has no yak
    asked = Embedded(torch.eye(8)[where], y, names={0: "ant", 1: "bee", 2: "cat", 3: "yak"})
    found = judged(Cluster(**SETS), blobs(30, 3, spread=0.1), asked)
    assert found["accuracy"].parts == pytest.approx({"ant": 3 / 4, "bee": 1, "cat": 3 / 4, "yak": 0})
    assert found["NMI"].parts is None and found["ARI"].parts is None


def test_features_are_centred_reduced_and_of_unit_length() -> None:
    generator = torch.Generator().manual_seed(0)
    widths = torch.tensor([9.0, 7, 5, 0.5, 0.3, 0.2, 0.1, 0.05])
    known, asked = (3 + torch.randn(n, 8, generator=generator) * widths for n in (50, 6))
    asked = asked + 2.0
    before = torch.get_rng_state()
    for dims in (3, 8, 20):
        one, two = reduced(known, asked, dims)
        x, z = prepared(known, asked, dims)
        torch.testing.assert_close(one @ one.T, x @ x.T, atol=1e-4, rtol=0)  # up to the sign of directions
        torch.testing.assert_close(two @ one.T, z @ x.T, atol=1e-4, rtol=0)
        assert one.shape == (50, min(dims, 8)) and two.shape == (6, min(dims, 8))
    assert torch.equal(torch.get_rng_state(), before)
    found = []
    wide = torch.randn(60, 40, generator=generator)  # more directions than the search looks at
    for seed in (7, 8):
        torch.manual_seed(seed)
        found.append(reduced(wide, wide, 3)[0])
    assert torch.equal(*found), "it is drawn from a seed of its own"
    few, _ = reduced(known[:5], asked, 3)  # fewer rows than columns
    torch.testing.assert_close(few.norm(dim=1), torch.ones(5))


def test_counts_of_pairs() -> None:
    counts = table(torch.tensor([[0, 1, 5, 5], [3, 3, 3, 4]]), 2, 3)
    assert counts.tolist() == [[[1, 1, 0], [0, 0, 2]], [[0, 0, 0], [3, 1, 0]]] and counts.dtype == torch.double


@pytest.mark.parametrize("seed", range(4))
def test_agreement_of_random_labels(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    told, truth = (torch.randint(k, (3, 12), generator=generator) for k in (4, 3))
    counts = table(told * 3 + truth, 4, 3)
    pairs = list(zip(told.tolist(), truth.tolist(), strict=True))
    assert mutual_information(counts).tolist() == pytest.approx([nmi(*pair) for pair in pairs])
    assert adjusted_rand(counts).tolist() == pytest.approx([ari(*pair) for pair in pairs])
    for row, pair in zip(counts, pairs, strict=True):
        names = assigned(row)
        assert sum(int(names[t]) == c for t, c in zip(*pair, strict=True)) / 12 == best_accuracy(*pair, 4)
        assert sorted(names.tolist()) == [-1, 0, 1, 2]


def test_agreement_of_one_cluster_and_of_one_sample() -> None:
    one = table(torch.zeros(1, 5), 2, 2)
    assert mutual_information(one).tolist() == [1.0] and adjusted_rand(one).tolist() == [1.0]
    alone = table(torch.tensor([[3]]), 2, 2)
    assert mutual_information(alone).tolist() == [1.0] and adjusted_rand(alone).tolist() == [1.0]
    half = table(torch.tensor([[0, 1, 0, 1]]), 2, 2)  # one cluster, two classes
    assert mutual_information(half).tolist() == [0.0] and adjusted_rand(half).tolist() == [0.0]


def test_an_interval_is_moved_to_its_value() -> None:
    found = _centred(Score(0.5, 0.6, 0.8, 0.1, 7, 0.2))
    assert (found.low, found.high) == (pytest.approx(0.4), pytest.approx(0.6))
    assert (found.value, found.chance, found.n, found.trivial) == (0.5, 0.1, 7, 0.2)
