"""Semi-supervised learning: the classes of a few training samples, and heads that begin as a trained run's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from mmssl.errors import UserError, did_you_mean
from mmssl.nn.misfit import misfit
from mmssl.objectives.clustering import Labels
from mmssl.types import Encoder


def few(labels: Mapping[int, int], fraction: float, *, seed: int) -> dict[int, int]:
    """Draws a share of the samples of each class, at least one: number -> class."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, int] = {}
    for name in sorted(set(labels.values())):
        mine = [number for number, other in labels.items() if other == name]
        order = torch.randperm(len(mine), generator=generator)[: max(1, round(fraction * len(mine)))]
        found |= {mine[place]: name for place in order.tolist()}
    return dict(sorted(found.items()))


class FewLabels(Labels):
    """Keeps the classes (n, 1) of a few training samples, the same share of every class, -1 for the others.

    classes: how many there are.
    label: the sample's key that holds the class.
    fraction: of the samples of a class whose class is known, at least one.
    seed: of which ones.
    """

    def __init__(self, *, classes: int, label: str, fraction: float, seed: int) -> None:
        if not 0 < fraction <= 1:
            raise UserError(f"fraction is {fraction}; expected a share above 0 and at most 1, such as 0.01")
        super().__init__([classes])
        self.label, self.fraction, self.seed = label, fraction, seed

    def learn(self, labels: Callable[[str], Mapping[int, int]]) -> dict[int, int]:
        """Draws whose classes are known, and keeps and returns these: number -> class."""
        every = labels(self.label)
        there = max(every.values()) + 1
        if there != self.clusters[0]:
            raise UserError(f"objective.classes is {self.clusters[0]}, and the training set has {there}")
        known = few(every, self.fraction, seed=self.seed)
        self.write(torch.tensor([*known]), torch.tensor([*known.values()])[:, None])
        return known


def begin(head: nn.Module, encoder: Encoder, space: str) -> None:
    """Gives a head the weights of one that `train.start` found beside an encoder; UserError where that has none."""
    if space not in encoder.brought:
        hint = did_you_mean(space, encoder.brought) if encoder.brought else "it brings none"
        raise UserError(
            f"the {encoder.modality} encoder begins without a head {space!r}: {hint}; set train.start to the run that "
            "trained it"
        )
    weights = encoder.brought[space]
    if difference := misfit(head, weights):
        raise UserError(f"the head {space!r} that train.start found does not fit: {difference}")
    head.load_state_dict(weights)
