"""Metric transfer: a trained encoder's metric spreads few labels over all samples, and a network learns from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.labels import labelled
from mmssl.nn.head import Classes
from mmssl.numerics.propagation import by_neighbors, by_spectrum
from mmssl.objectives.bank import SampleRows
from mmssl.objectives.clustering import agreed, by_number, survey
from mmssl.objectives.few_labels import FewLabels
from mmssl.objectives.taught import Taught
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Epoch, Loss, Method, Spaces
from mmssl.views.template import Views


class MetricTransfer(Taught):
    """Cross-entropy with propagated labels, each weighted by how confident it is; labels that are known weigh 1.

    Liu et al., 2018 (Deep Metric Transfer for Label Propagation with Limited Annotated Data), after a metric of
    instance discrimination (npid); propagation and confidence are checked against the authors' notebooks, whose code
    leaves the weights out and learns from the `most` confident instead. Labels spread once, before the first epoch,
    over the pooled features of the frozen teacher, listed as image_teacher or as the learner's key and _teacher, whose
    weights are those of train.start.image_teacher; the learner begins with them as well where train.start.image says
    so, as in the paper. The classifier is the encoder's space of the task's name.

    encoder: key of the encoder that learns.
    classes: how many there are.
    label: the sample's key that holds the class.
    fraction: of the training set, the same of every class and at least one sample, whose class is known.
    seed: of which samples these are.
    by: spectrum, a normalized cut of the graph of nearest neighbours with the labels as constraints; or neighbors, a
        vote of the nearest labelled samples.
    neighbors: of each sample in the graph, itself among them, or that vote; by default 20 and 200.
    vectors: eigenvectors of the graph's Laplacian.
    most: share of the samples without a label that is learnt from, the most confident ones.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        encoder: str = "image",
        classes: int = 1000,
        label: str = "label",
        fraction: float = 0.01,
        seed: int = 0,
        by: Literal["spectrum", "neighbors"] = "spectrum",
        neighbors: int | None = None,
        vectors: int = 200,
        most: float = 1.0,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        if vectors < 2 or (neighbors is not None and neighbors < 2) or not 0 < most <= 1:
            raise UserError(
                f"vectors is {vectors}, neighbors {neighbors} and most {most}; expected at least 2, and a share above 0"
            )
        self.head = Classes(encoders[encoder].dim, classes=classes)
        self.known = FewLabels(classes=classes, label=label, fraction=fraction, seed=seed)
        self.weights = SampleRows(1, learnt=False)
        self.by, self.vectors, self.most = by, vectors, most
        self.neighbors = neighbors or {"spectrum": 20, "neighbors": 200}[by]
        self.classes = classes

    def choose(self, labels: Callable[[str], Mapping[int, int]]) -> None:
        self.known.learn(labels)

    @torch.no_grad()
    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        if epoch.number:
            return
        teacher = encoders[self.teacher]
        numbers, x = by_number(*survey(lambda seen: teacher(seen).pooled, self.teacher, epoch.sweep))
        labels, confidence = self._spread(x, self.known.rows[numbers, 0])
        self.weights.rows.zero_()
        self.weights.rows[numbers] = agreed(self._picked(confidence, self.known.rows[numbers, 0]))[:, None]
        self.known.write(numbers, agreed(labels)[:, None])

    def _spread(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if not (labels >= 0).any():
            raise UserError("no sample that the teacher reads has a label; raise fraction")
        if self.by == "neighbors":
            return by_neighbors(x, labels, classes=self.classes, neighbors=self.neighbors)
        return by_spectrum(x, labels, classes=self.classes, neighbors=self.neighbors, vectors=self.vectors)

    def _picked(self, confidence: Tensor, labels: Tensor) -> Tensor:
        """Returns the weights (N,), 0 for what is not among the most confident of the samples without a label."""
        free = (labels < 0).nonzero()[:, 0]
        order = confidence[free].argsort(descending=True, stable=True)
        return confidence.index_fill(0, free[order[round(self.most * len(free)) :]], 0.0)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        pooled = encoders[self.key](batch.views[self.key][0]).pooled
        labels, weights = self.known.of(batch)[:, 0], self.weights.rows[batch.extra["index"], 0]
        present = batch.present(self.key) & batch.present(self.teacher)
        losses, counted, correct = labelled(self.head.scores(pooled), labels, present & (weights > 0))
        logs = {"correct": correct.nanmean(), "confidence": weights.mean()}
        return Loss(dist.mean(weights * losses, counted), logs, {self.key: pooled.detach()}, {"correct": correct})

    def spaces(self) -> Spaces:
        return {self.key: self.head}


method = Method(Views(1, image=[Crop(), Flip()]), MetricTransfer)
