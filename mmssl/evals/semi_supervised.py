"""Semi-supervised learning: what do 1% and 10% of the labels suffice for?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from mmssl.errors import UserError
from mmssl.evals.finetune import FineTuning, finetuned
from mmssl.evals.linear import DECAYS, probe, tops
from mmssl.evals.parts.labelled import Embedded
from mmssl.evals.parts.solvers import LBFGS
from mmssl.objectives.few_labels import few
from mmssl.types import Encoder, Score


@dataclass(kw_only=True, eq=False)
class SemiSupervised(FineTuning):
    """Top-1 and top-5 accuracy with few labels, of a linear classifier on frozen features and of the whole encoder.

    The other options are those of every Classification and FineTuning. Zhai et al., ICCV 2019 (S4L); fractions and
    epochs of Chen et al., ICML 2020 (SimCLR).

    fractions: of the training set, the same of every class and at least one sample, drawn from the seed.
    protocols: linear (as the evaluation of that name), finetune (as that one), or both.
    epochs: of fine-tuning, for each of `fractions`.
    """

    fractions: tuple[float, ...] = (0.01, 0.1)
    protocols: tuple[Literal["linear", "finetune"], ...] = ("linear", "finetune")
    epochs: tuple[int, ...] = (60, 30)

    def __post_init__(self) -> None:
        fit = all(0 < fraction <= 1 for fraction in self.fractions) and min(self.epochs, default=1) >= 1
        if not self.fractions or not self.protocols or not fit or len(self.epochs) != len(self.fractions):
            raise UserError(
                f"semi_supervised has fractions {self.fractions}, epochs {self.epochs} and protocols {self.protocols}; "
                "expected fractions of at most 1, as many epochs, each at least 1, and at least one way"
            )
        super().__post_init__()

    def judge(self, encoder: Encoder, places: tuple[str, ...]) -> Iterator[tuple[str, Score]]:
        """Yields <fraction>%/linear/top1, <fraction>%/finetune/top1, and top5 where there are more than 5 classes."""
        labels = self.sets.labels()
        classes = max(labels.values()) + 1
        for fraction, epochs in zip(self.fractions, self.epochs, strict=True):
            some = few(labels, fraction, seed=self.seed)
            for way in self.protocols:
                if way == "finetune":
                    tuned = finetuned(encoder, self.sets.train, some, self, epochs=epochs, place=places[0])
                    test = self.sets.test_rows(tuned.encoder)
                    ranks = tuned.ranks(test)
                else:
                    train, test = self.sets.rows(encoder, space=places[0])
                    ranks = probe(picked(train, some), test, LBFGS(DECAYS), classes=classes, device=encoder.device)[0]
                yield from ((f"{100 * fraction:g}%/{way}/{name}", score) for name, score in tops(ranks, classes, test))


def picked(rows: Embedded, labels: Mapping[int, int]) -> Embedded:
    """Returns the rows of the samples that have a label."""
    mine = torch.isin(rows.number, torch.tensor(list(labels)))
    return Embedded(rows.x[mine], rows.y[mine], rows.number[mine])


evaluation = SemiSupervised
