"""SeLa: label all samples so that every label is as frequent, and learn to tell the labels, in turn."""

from __future__ import annotations

from collections.abc import Mapping
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.numerics.constants import counts
from mmssl.numerics.monitors import assignment_entropy
from mmssl.numerics.sinkhorn import sinkhorn
from mmssl.objectives.clustering import Labels, by_number, survey
from mmssl.objectives.multi_view import MultiView, pooled_views
from mmssl.transforms.color import ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Epoch, Loss, Method, evaluating
from mmssl.views.template import Views


class SeLa(MultiView):
    """Classifies samples by labels that the classifiers' own predictions give, spread evenly by Sinkhorn-Knopp.

    Asano et al., ICLR 2020.

    clusters: labels of each classifier.
    heads: linear classifiers with labels of their own.
    labelings: how often all samples are labelled anew, mostly early: the i-th when (i / labelings)^2 of training is
        over, at the next epoch's begin.
    sharpness: how closely labels keep to the predictions, the paper's lambda.
    iterations: of Sinkhorn-Knopp.
    """

    done: Tensor
    labelled: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        clusters: int = 3000,
        heads: int = 10,
        labelings: int = 100,
        sharpness: float = 25.0,
        iterations: int = 100,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        if heads < 1 or labelings < 1:
            raise UserError(f"heads is {heads} and labelings is {labelings}; expected at least one of each")
        self.classifiers = nn.Linear(self.dim, heads * clusters)
        self.labels = Labels([clusters] * heads)
        self.register_buffer("done", torch.zeros(()))
        self.register_buffer("labelled", torch.zeros((), dtype=torch.long))
        self.clusters, self.labelings, self.sharpness, self.iterations = clusters, labelings, sharpness, iterations

    @torch.no_grad()
    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        due = 1 + int(self.labelings * float(self.done) ** 0.5)
        if self.labelled >= due:
            return
        encoder = encoders[self.key]
        with evaluating(encoder):
            numbers, features = survey(lambda x: encoder(x).pooled, self.key, epoch.sweep)
        weights, biases = (part.split(self.clusters) for part in (self.classifiers.weight, self.classifiers.bias))
        found = [self._label(F.linear(features, w, b)) for w, b in zip(weights, biases, strict=True)]
        self.labels.write(*by_number(numbers, torch.stack(found, dim=1)))
        self.labelled.fill_(due)

    def _label(self, scores: Tensor) -> Tensor:
        """Returns the labels (n,) of this process's samples by their scores (n, K), spread over those of all."""
        logs = scores.log_softmax(dim=1)
        return sinkhorn(logs, epsilon=1 / self.sharpness, iterations=self.iterations).argmax(dim=1)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        labels = self.labels.of(batch)  # (B, heads)
        known = self.present(batch) & (labels[:, 0] >= 0)
        views = pooled_views(encoders[self.key], self.views(batch, least=1), len(labels))
        scores = self.classifiers(torch.cat(views)).float().unflatten(1, (-1, self.clusters)).mT  # (V B, K, heads)
        sought = labels.clamp(min=0).repeat(len(views), 1)
        losses = F.cross_entropy(scores, sought, reduction="none").mean(dim=1).unflatten(0, (len(views), -1))
        correct = (scores.argmax(dim=1) == sought).float().mean(dim=1).unflatten(0, (len(views), -1)).mean(dim=0)
        logs = {"accuracy": correct.masked_fill(~known, torch.nan).nanmean(), "labelings": self.labelled}
        logs["chance_loss"] = torch.tensor(log(self.clusters))
        logs["assignment_entropy"] = assignment_entropy(counts(sought[: len(labels), 0], self.clusters, known))
        return Loss(dist.mean(losses.mean(dim=0), known), logs, {self.key: views[0].detach()})

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.done.fill_(progress)


COLORS = ColorJitter(p=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4)

method = Method(Views(1, image=[Crop(), Flip(), COLORS, Grayscale()]), SeLa)
