"""Clustering: do the features fall into the classes by themselves?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals.parts.labelled import Probe
from mmssl.evals.parts.score import bootstrap
from mmssl.numerics.kmeans import kmeans, nearest
from mmssl.types import Encoder, Score

SHUFFLES = 10  # by which the level of chance is found


@dataclass(kw_only=True, eq=False)
class Cluster(Probe):
    """NMI, adjusted Rand index and accuracy of k-means: centres from the training set, figures from the test set.

    Features are scaled to unit length. Accuracy gives each cluster one class of its own, so that most are right (the
    Hungarian method), and keeps that of each class. Chance is what shuffled clusters reach. The other options are those
    of every Probe. Caron et al., ECCV 2018 (DeepCluster), for the preparation, without its whitening.

    clusters: how many, by default as many as classes.
    pca: dimensions that features are reduced to where they have more.
    restarts: seeds of k-means, of which the tightest clusters count.
    iterations: of k-means.
    """

    clusters: int | None = None
    pca: int = 256
    restarts: int = 3
    iterations: int = 50

    def __post_init__(self) -> None:
        clusters = 2 if self.clusters is None else self.clusters
        if min(clusters, self.pca) < 2 or min(self.restarts, self.iterations) < 1:
            raise UserError(
                f"cluster has clusters {self.clusters}, pca {self.pca}, restarts {self.restarts} and iterations "
                f"{self.iterations}; expected 2, 2, 1, 1 or more"
            )
        super().__post_init__()

    def judge(self, encoder: Encoder, places: tuple[str, ...]) -> Iterator[tuple[str, Score]]:
        """Yields NMI, ARI and accuracy."""
        train, test = self.sets.read(encoder, places)[places[0]]
        count = self.clusters or int(train.y.max()) + 1
        classes = int(max(train.y.max(), test.y.max())) + 1  # those that the training set lacks count as any
        x, z = reduced(train.x.to(encoder.device), test.x.to(encoder.device), self.pca)
        tries = [kmeans(x, count, iterations=self.iterations, seed=seed) for seed in range(self.restarts)]
        centres = min(tries, key=lambda centres: float(nearest(x, centres)[1].sum()))
        predicted = nearest(z, centres)[0].cpu()
        pairs = predicted * classes + test.y
        generator = torch.Generator().manual_seed(0)
        shuffled = [predicted[torch.randperm(len(predicted), generator=generator)] for _ in range(SHUFFLES)]
        mixed = [table((other * classes + test.y)[None], count, classes) for other in shuffled]
        for name, figure in (("NMI", mutual_information), ("ARI", adjusted_rand)):
            chance = float(torch.cat([figure(each) for each in mixed]).mean())
            yield name, _centred(bootstrap(pairs, chance=chance, statistic=_statistic(figure, count, classes)))
        right = assigned(table(pairs[None], count, classes)[0])[predicted] == test.y
        guesses = [
            (assigned(each[0])[other] == test.y).float().mean() for each, other in zip(mixed, shuffled, strict=True)
        ]
        level = float(torch.stack(guesses).mean())
        yield "accuracy", bootstrap(right, chance=level, parts=test.per_class(right))


def reduced(train: Tensor, test: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Returns rows (N, D) and (M, D), centred on the first, in their `dims` widest directions, of unit length."""
    mean = train.mean(dim=0)
    train, test = train - mean, test - mean
    if train.shape[1] > dims:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            widest = torch.svd_lowrank(train, q=min(dims + 16, *train.shape), niter=2)[2][:, :dims]
        train, test = train @ widest, test @ widest
    return F.normalize(train, dim=1), F.normalize(test, dim=1)


def table(pairs: Tensor, clusters: int, classes: int) -> Tensor:
    """Counts each cluster's samples of each class (R, K, C), float64, in pairs (R, N) of cluster * classes + class."""
    counts = torch.zeros(len(pairs), clusters * classes, dtype=torch.double)
    counts.scatter_add_(1, pairs.long(), torch.ones_like(pairs, dtype=torch.double))
    return counts.unflatten(1, (clusters, classes))


def mutual_information(counts: Tensor) -> Tensor:
    """Returns the mutual information of clusters and classes over the mean of their entropies, (R,)."""
    p = counts / counts.sum(dim=(1, 2), keepdim=True)
    rows, columns = (_entropy(p.sum(dim=dim)) for dim in (2, 1))
    both = rows + columns - _entropy(p.flatten(1))
    return torch.where(rows + columns > 0, 2 * both / (rows + columns).clamp(min=1e-12), 1.0)


def _entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum(dim=1)


def adjusted_rand(counts: Tensor) -> Tensor:
    """Returns the share of pairs of samples that clusters and classes agree on, 0 at chance. Hubert & Arabie, 1985."""

    def pairs(n: Tensor) -> Tensor:
        return (n * (n - 1) / 2).sum(dim=1)

    together, rows, columns = (pairs(n) for n in (counts.flatten(1), counts.sum(dim=2), counts.sum(dim=1)))
    total = counts.sum(dim=(1, 2))
    expected = rows * columns / (total * (total - 1) / 2).clamp(min=1)
    room = (rows + columns) / 2 - expected
    return torch.where(room > 0, (together - expected) / room.clamp(min=1e-12), 1.0)


def assigned(counts: Tensor) -> Tensor:
    """Returns the class of each cluster (K,) that makes most of a table (K, C) right; -1 for one that gets none."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    return torch.full((len(counts),), -1).index_copy(0, torch.from_numpy(rows), torch.from_numpy(columns))


def _statistic(figure: Callable[[Tensor], Tensor], clusters: int, classes: int) -> Callable[[Tensor], Tensor]:
    def of(pairs: Tensor) -> Tensor:
        rows = pairs[None] if pairs.ndim == 1 else pairs
        parts = rows.split(max(1, 2**24 // (clusters * classes)))
        found = torch.cat([figure(table(part, clusters, classes)) for part in parts])
        return found[0] if pairs.ndim == 1 else found

    return of


def _centred(score: Score) -> Score:
    """Moves the interval to the value: samples that come twice in a resample make both figures look better."""
    shift = score.value - (score.low + score.high) / 2
    return replace(score, low=score.low + shift, high=score.high + shift)


evaluation = Cluster
