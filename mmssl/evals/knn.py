"""k nearest neighbours: what class do the samples have that lie nearest in feature space?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.evals.parts.classes import chance
from mmssl.evals.parts.labelled import Probe
from mmssl.evals.parts.score import bootstrap
from mmssl.numerics.neighbors import nearest
from mmssl.types import Encoder, Score

HELD = 2**24  # sums of weights held at a time


@dataclass(kw_only=True, eq=False)
class KNN(Probe):
    """Top-1 accuracy by a vote of the k nearest by cosine. Wu et al., CVPR 2018.

    The other options are those of every Probe.

    k: neighbours that vote, one number or several; the paper has 200.
    temperature: a neighbour weighs exp(similarity / temperature).
    """

    k: tuple[int, ...] = (5, 20, 200)
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if not self.k or min(self.k) < 1 or self.temperature <= 0:
            raise UserError(f"k is {self.k} and temperature {self.temperature}; expected numbers above 0")
        super().__post_init__()

    def judge(self, encoder: Encoder, places: tuple[str, ...]) -> Iterator[tuple[str, Score]]:
        """Yields k<number>."""
        train, test = self.sets.read(encoder, places)[places[0]]
        x, y, z = (part.to(encoder.device) for part in (train.x, train.y, test.x))
        answers = votes(x, y, z, ks=self.k, temperature=self.temperature)
        for k, answer in zip(self.k, answers, strict=True):
            right = answer.cpu() == test.y
            yield f"k{k}", bootstrap(right, chance=chance(test.y, int(train.y.max()) + 1), parts=test.per_class(right))


def votes(train: Tensor, labels: Tensor, test: Tensor, *, ks: Sequence[int], temperature: float) -> list[Tensor]:
    """Returns, for each k, the class (M,) that the k nearest of train (N, D), with labels (N,), give to test (M, D).

    One search serves every k. Of equally similar samples the earlier counts as nearer, and of classes with as much
    weight the lower one wins.
    """
    near, places = nearest(train, test, max(ks))
    weights, classes = ((near - near[:, :1]) / temperature).exp(), int(labels.max()) + 1
    size = max(1, HELD // classes)
    parts = list(zip(weights.split(size), labels[places].split(size), strict=True))
    return [torch.cat([_elected(*part, classes=classes, k=k) for part in parts]) for k in ks]


def _elected(weights: Tensor, labels: Tensor, *, classes: int, k: int) -> Tensor:
    """Returns the class of the largest sum of weights over the first k of neighbours (M, K)."""
    ballot = weights.new_zeros(len(weights), classes)
    return ballot.scatter_add_(1, labels[:, :k], weights[:, :k]).argmax(dim=1)


evaluation = KNN
