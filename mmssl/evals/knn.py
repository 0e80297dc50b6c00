"""k nearest neighbours: what class do the samples have that lie nearest in feature space?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals.labelled import Labelled, chosen, rivals
from mmssl.evals.score import bootstrap
from mmssl.types import Score, Trained

HELD = 2**26  # similarities held at a time


class KNN:
    """Top-1 accuracy by a vote of the k nearest by cosine, each weighing exp(similarity / temperature).

    train, data: shards, with their labels, of what votes and of what is asked. label: the sample's key that holds the
    class, a name or a number. k: one or several. encoder: its key, by default the only one's. space: the task whose
    embedding is used, None for pooled features. baselines: also votes by the raw input, which becomes the trivial
    figure, and by random weights. Wu et al., CVPR 2018, whose k is 200 and temperature 0.07.
    """

    def __init__(
        self,
        *,
        train: dict[str, Any],
        data: dict[str, Any],
        label: str = "label",
        k: tuple[int, ...] = (5, 20, 200),
        temperature: float = 0.07,
        encoder: str | None = None,
        space: str | None = None,
        baselines: bool = True,
    ) -> None:
        if not k or min(k) < 1 or temperature <= 0:
            raise UserError(f"k is {k} and temperature {temperature}; expected numbers above 0")
        self.sets = Labelled(train, data, label=label)
        self.k, self.temperature, self.encoder, self.space = k, temperature, encoder, space
        self.baselines = baselines

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields k<number>, and with baselines raw/k<number> and random_weights/k<number>."""
        key = chosen(trained, self.encoder)
        trivial: dict[int, float] = {}
        for prefix, encoder in rivals(self.sets, trained, key, baselines=self.baselines):
            known, asked = self.sets.rows(encoder, key, space=None if prefix else self.space)
            classes = int(known.y.max()) + 1
            for k in self.k:
                right = vote(known.x, known.y, asked.x, k=k, temperature=self.temperature) == asked.y
                if prefix == "raw/":
                    trivial[k] = float(right.float().mean())
                yield f"{prefix}k{k}", bootstrap(right, chance=1 / classes, trivial=None if prefix else trivial.get(k))


def vote(known: Tensor, labels: Tensor, asked: Tensor, *, k: int, temperature: float) -> Tensor:
    """Returns the class (M,) that the k nearest of known (N, D), with labels (N,), give to each of asked (M, D).

    Similarities are worked out in parts, so that memory does not grow with N times M.
    """
    known, asked = F.normalize(known.float(), dim=1), F.normalize(asked.float(), dim=1)
    k, classes = min(k, len(known)), int(labels.max()) + 1
    found = []
    for part in asked.split(max(1, HELD // len(known))):
        near, place = (part @ known.T).topk(k, dim=1)
        weights = ((near - near[:, :1]) / temperature).exp()
        found.append(weights.new_zeros(len(part), classes).scatter_add_(1, labels[place], weights).argmax(dim=1))
    return torch.cat(found)


evaluation = KNN
