"""Semi-supervised learning: what do 1% and 10% of the labels suffice for?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch

from mmssl.data.subset import counted
from mmssl.errors import UserError
from mmssl.evals.finetune import Tuning, finetuned
from mmssl.evals.linear import DECAYS, probe, tops
from mmssl.evals.parts.labelled import Probe, Rows
from mmssl.evals.parts.solvers import LBFGS
from mmssl.types import Encoder, Score, Trained


class SemiSupervised(Probe):
    """Top-1 and top-5 accuracy with few labels, of a linear classifier on frozen features and of the whole encoder.

    shares: of the training set, the same of every class and at least one sample, drawn from the seed. how: linear (as
    the evaluation of that name, on pooled features), finetune (as that one), or both. epochs: of fine-tuning, for each
    share; batch, lr, weight_decay, layer_decay, crop_scale, flip, workers: as in finetune. The other options as a Probe
    has them. Zhai et al., ICCV 2019 (S4L); shares and epochs of Chen et al., ICML 2020 (SimCLR).
    """

    def __init__(
        self,
        *,
        train: dict[str, Any],
        data: dict[str, Any],
        label: str = "label",
        encoder: str | None = None,
        baselines: bool = True,
        limit: int | None = None,
        shares: tuple[float, ...] = (0.01, 0.1),
        how: tuple[Literal["linear", "finetune"], ...] = ("linear", "finetune"),
        epochs: tuple[int, ...] = (60, 30),
        batch: int = 128,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        layer_decay: float = 0.75,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        flip: float = 0.5,
        workers: int = 1,
        seed: int = 0,
    ) -> None:
        if not shares or not how or not all(0 < share <= 1 for share in shares) or len(epochs) != len(shares):
            raise UserError(
                f"semi_supervised has shares {shares}, epochs {epochs} and how {how}; expected shares of at most 1, "
                "as many epochs, and at least one way"
            )
        super().__init__(train=train, data=data, label=label, encoder=encoder, baselines=baselines, limit=limit)
        self.how, self.seed = how, seed
        tuning = Tuning(
            batch=batch,
            lr=lr,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
            crop_scale=crop_scale,
            flip=flip,
            workers=workers,
            seed=seed,
        )
        self.tunings = {share: replace(tuning, epochs=n) for share, n in zip(shares, epochs, strict=True)}

    def check(self, trained: Trained) -> None:
        """Asks besides for a training set whose samples are counted."""
        super().check(trained)
        counted(self.sets.train)

    def judge(self, encoder: Encoder, places: tuple[str, ...]) -> Iterator[tuple[str, Score]]:
        """Yields <share>%/linear/top1, <share>%/finetune/top1, and top5 of each where there are more classes than 5."""
        labels = self.sets.labels()
        classes = max(labels.values()) + 1
        for share, tuning in self.tunings.items():
            some = few(labels, share, seed=self.seed)
            for way in self.how:
                if way == "finetune":
                    tuned = finetuned(encoder, self.sets.train, some, tuning)
                    ranks = tuned.ranks(self.sets.asked(tuned.encoder))
                else:
                    known, asked = self.sets.rows(encoder)
                    ranks = probe(picked(known, some), asked, LBFGS(DECAYS), classes=classes, device=encoder.device)[0]
                yield from ((f"{100 * share:g}%/{way}/{name}", score) for name, score in tops(ranks, classes))


def few(labels: Mapping[int, int], share: float, *, seed: int) -> dict[int, int]:
    """Draws a share of the samples of each class, at least one: number -> class."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, int] = {}
    for name in sorted(set(labels.values())):
        mine = [number for number, other in labels.items() if other == name]
        order = torch.randperm(len(mine), generator=generator)[: max(1, round(share * len(mine)))]
        found |= {mine[place]: name for place in order.tolist()}
    return dict(sorted(found.items()))


def picked(rows: Rows, labels: Mapping[int, int]) -> Rows:
    """Returns the rows of the samples that have a label."""
    mine = torch.isin(rows.number, torch.tensor(list(labels)))
    return Rows(rows.x[mine], rows.y[mine], rows.number[mine])


evaluation = SemiSupervised
