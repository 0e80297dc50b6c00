"""k nearest neighbours: what class do the samples have that lie nearest in feature space?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals.parts.classes import chance
from mmssl.evals.parts.labelled import Probe
from mmssl.evals.parts.score import bootstrap
from mmssl.types import Encoder, Score

HELD = 2**26  # similarities held at a time


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
        for k in self.k:
            right = vote(x, y, z, k=k, temperature=self.temperature).cpu() == test.y
            yield f"k{k}", bootstrap(right, chance=chance(test.y, int(train.y.max()) + 1), parts=test.per_class(right))


def vote(train: Tensor, labels: Tensor, test: Tensor, *, k: int, temperature: float) -> Tensor:
    """Returns the class (M,) that the k nearest of train (N, D), with labels (N,), give to each of test (M, D).

    Similarities are worked out in parts, so that memory does not grow with N times M.
    """
    train, test = F.normalize(train.float(), dim=1), F.normalize(test.float(), dim=1)
    k, classes = min(k, len(train)), int(labels.max()) + 1
    found = []
    for part in test.split(max(1, HELD // len(train))):
        near, place = (part @ train.T).topk(k, dim=1)
        weights = ((near - near[:, :1]) / temperature).exp()
        found.append(weights.new_zeros(len(part), classes).scatter_add_(1, labels[place], weights).argmax(dim=1))
    return torch.cat(found)


evaluation = KNN
