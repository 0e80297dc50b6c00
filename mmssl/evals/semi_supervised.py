"""Semi-supervised learning: what do 1% and 10% of the labels suffice for?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch

from mmssl.errors import UserError
from mmssl.evals.finetune import Tuning, finetuned
from mmssl.evals.linear import DECAYS, probe, tops
from mmssl.evals.parts.labelled import Embedded, Probe
from mmssl.evals.parts.needs import Needs
from mmssl.evals.parts.solvers import LBFGS
from mmssl.types import Encoder, Score, Trained


class SemiSupervised(Probe):
    """Top-1 and top-5 accuracy with few labels, of a linear classifier on frozen features and of the whole encoder.

    Zhai et al., ICCV 2019 (S4L); fractions and epochs of Chen et al., ICML 2020 (SimCLR).

    train: shards with labels to learn from.
    data: shards with labels to judge on; classes meet as evals/parts/classes.py says.
    label: the sample's key that holds the class, a name or a number.
    encoder: its key, by default the only one's; it reads what the samples have of its modality.
    baselines: also judge the raw input, which becomes the trivial figure, and the encoder with random weights; in a
        run that trains they are judged once.
    limit: samples of each set at most, drawn from a fixed seed.
    fractions: of the training set, the same of every class and at least one sample, drawn from the seed.
    protocols: linear (as the evaluation of that name, on pooled features), finetune (as that one), or both.
    epochs: of fine-tuning, for each of `fractions`.
    batch: samples of a training step, over all processes.
    lr: the highest learning rate, of the last layer.
    weight_decay: of AdamW.
    layer_decay: factor on the rate from each layer to the one before.
    crop_scale: share of the area that crops of images and videos keep.
    flip: probability that images and videos are mirrored; sounds are heard from a random moment.
    workers: data processes.
    seed: of what is random.
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
        fractions: tuple[float, ...] = (0.01, 0.1),
        protocols: tuple[Literal["linear", "finetune"], ...] = ("linear", "finetune"),
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
        if (
            not fractions
            or not protocols
            or not all(0 < fraction <= 1 for fraction in fractions)
            or len(epochs) != len(fractions)
        ):
            raise UserError(
                f"semi_supervised has fractions {fractions}, epochs {epochs} and protocols {protocols}; expected "
                "fractions of at most 1, as many epochs, and at least one way"
            )
        super().__init__(train=train, data=data, label=label, encoder=encoder, baselines=baselines, limit=limit)
        self.protocols, self.seed = protocols, seed
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
        self.tunings = {fraction: replace(tuning, epochs=n) for fraction, n in zip(fractions, epochs, strict=True)}

    def needs(self, trained: Trained) -> Needs:
        return replace(super().needs(trained), counted=("train",))

    def judge(self, encoder: Encoder, places: tuple[str, ...]) -> Iterator[tuple[str, Score]]:
        """Yields <fraction>%/linear/top1, <fraction>%/finetune/top1, and top5 where there are more than 5 classes."""
        labels = self.sets.labels()
        classes = max(labels.values()) + 1
        for fraction, tuning in self.tunings.items():
            some = few(labels, fraction, seed=self.seed)
            for way in self.protocols:
                if way == "finetune":
                    tuned = finetuned(encoder, self.sets.train, some, tuning)
                    test = self.sets.test_rows(tuned.encoder)
                    ranks = tuned.ranks(test)
                else:
                    train, test = self.sets.rows(encoder)
                    ranks = probe(picked(train, some), test, LBFGS(DECAYS), classes=classes, device=encoder.device)[0]
                yield from ((f"{100 * fraction:g}%/{way}/{name}", score) for name, score in tops(ranks, classes, test))


def few(labels: Mapping[int, int], fraction: float, *, seed: int) -> dict[int, int]:
    """Draws a share of the samples of each class, at least one: number -> class."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, int] = {}
    for name in sorted(set(labels.values())):
        mine = [number for number, other in labels.items() if other == name]
        order = torch.randperm(len(mine), generator=generator)[: max(1, round(fraction * len(mine)))]
        found |= {mine[place]: name for place in order.tolist()}
    return dict(sorted(found.items()))


def picked(rows: Embedded, labels: Mapping[int, int]) -> Embedded:
    """Returns the rows of the samples that have a label."""
    mine = torch.isin(rows.number, torch.tensor(list(labels)))
    return Embedded(rows.x[mine], rows.y[mine], rows.number[mine])


evaluation = SemiSupervised
