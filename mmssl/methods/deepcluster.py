"""DeepCluster: cluster the features of the whole training set, and classify each sample into its cluster, in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.nn.head import Projection
from mmssl.numerics.constants import counts
from mmssl.numerics.kmeans import kmeans, most_similar, nearest, spherical_kmeans
from mmssl.numerics.monitors import assignment_entropy
from mmssl.numerics.whiten import pca_whiten
from mmssl.objectives.bank import Bank
from mmssl.objectives.clustering import Labels, agreed, by_number, survey
from mmssl.objectives.multi_view import MultiView, pooled_views
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Epoch, Loss, Method, Spaces, evaluating
from mmssl.views import swav
from mmssl.views.template import Views


class DeepCluster(MultiView):
    """Classifies samples into the clusters that k-means finds among their features before each epoch.

    Every cluster weighs alike, however large; the classifier starts anew with each clustering, and only the optimizer's
    averages outlive it. Caron et al., ECCV 2018.

    clusters: how many; those that k-means leaves empty are moved.
    pca: main directions along which features are whitened before they are scaled to unit length.
    iterations: of k-means.
    """

    sizes: Tensor
    epoch: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        clusters: int = 10_000,
        pca: int = 256,
        iterations: int = 20,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.classifier = nn.Linear(self.dim, clusters)
        self.labels = Labels([clusters])
        self.register_buffer("sizes", torch.zeros(clusters))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.long))
        self.pca, self.iterations = pca, iterations

    @torch.no_grad()
    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        encoder, seed = encoders[self.key], int(self.epoch)
        with evaluating(encoder):
            numbers, features = survey(lambda x: encoder(x).pooled, self.key, epoch.sweep)
        numbers, x = by_number(numbers, F.normalize(pca_whiten(features, self.pca), dim=1))
        labels = agreed(nearest(x, kmeans(x, len(self.sizes), iterations=self.iterations, seed=seed))[0])
        self.labels.write(numbers, labels[:, None])
        self.sizes.copy_(torch.bincount(labels, minlength=len(self.sizes)))
        start = torch.randn(self.classifier.weight.shape, generator=torch.Generator().manual_seed(seed)) * 0.01
        self.classifier.weight.copy_(start)
        self.classifier.bias.zero_()
        self.epoch += 1

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        labels = self.labels.of(batch)[:, 0]
        counts = self.present(batch) & (labels >= 0)
        views = pooled_views(encoders[self.key], self.views(batch, least=1), len(labels))
        sought = labels.clamp(min=0)
        losses = torch.stack([F.cross_entropy(self.classifier(x).float(), sought, reduction="none") for x in views])
        even = self.sizes.sum() / ((self.sizes > 0).sum() * self.sizes[sought]).clamp(min=1)
        total = dist.mean(losses.mean(dim=0) * even, counts)
        filled = (self.sizes > 0).sum()
        logs = {
            "clusters": filled,
            "assignment_entropy": assignment_entropy(self.sizes),
            "chance_loss": filled.float().log(),
        }
        return Loss(total, logs, {self.key: views[0].detach()})


class DeepClusterV2(MultiView):
    """Classifies samples by prototypes that spherical k-means finds among the last epoch's embeddings.

    Caron et al., NeurIPS 2020 (SwAV, which describes it); what is known of samples before the first epoch comes from a
    pass over them, and not from augmented views.

    embed_dim: size of the projection.
    hidden: widths of the projector's hidden layers.
    clusters: of each clustering.
    assign: how many of the first views, the large ones, are remembered; the clusterings take them in turn.
    temperature: of the predictions.
    iterations: of k-means.
    """

    prototypes: Tensor
    epoch: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        hidden: Sequence[int] = (2048,),
        clusters: Sequence[int] = (3000, 3000, 3000),
        assign: int = 2,
        temperature: float = 0.1,
        iterations: int = 10,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        if assign < 1 or not clusters:
            raise UserError(f"assign is {assign} and clusters is {list(clusters)}; expected at least one of each")
        self.head = Projection(self.dim, out=embed_dim, hidden=hidden, bias=True)
        self.banks = nn.ModuleList(Bank(embed_dim, momentum=0.0) for _ in range(assign))
        self.labels = Labels(clusters)
        self.register_buffer("prototypes", torch.zeros(sum(clusters), embed_dim))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.long))
        self.clusters, self.temperature, self.iterations = list(clusters), temperature, iterations

    @torch.no_grad()
    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        if not self.epoch:
            encoder = encoders[self.key]
            with evaluating(encoder, self.head):
                numbers, rows = by_number(*survey(lambda x: self._embed(encoder(x).pooled), self.key, epoch.sweep))
            for bank in self.memories:
                bank.rows[numbers] = rows
        found, labels = [], []
        for number, clusters in enumerate(self.clusters):
            x, seed = self.memories[number % len(self.memories)].rows, int(self.epoch) * len(self.clusters) + number
            found.append(agreed(spherical_kmeans(x, clusters, iterations=self.iterations, seed=seed)))
            labels.append(agreed(most_similar(x, found[-1])))
        self.prototypes.copy_(torch.cat(found))
        self.labels.write(torch.arange(len(labels[0]), device=labels[0].device), torch.stack(labels, dim=1))
        self.epoch += 1

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        self.views(batch, least=len(self.memories))
        present, labels = self.present(batch), self.labels.of(batch)
        views = pooled_views(encoders[self.key], self.views(batch, least=1), len(present))
        embedded = self._embed(torch.cat(views))  # (V B, D)
        with torch.autocast(embedded.device.type, enabled=False):
            scores = (embedded @ self.prototypes.T / self.temperature).split(self.clusters, dim=1)
        sought = labels.clamp(min=0).repeat(len(views), 1)
        losses = [F.cross_entropy(s, y, reduction="none") for s, y in zip(scores, sought.unbind(1), strict=True)]
        total = dist.mean(
            torch.stack(losses).unflatten(1, (len(views), -1)).mean(dim=(0, 1)), present & (labels[:, 0] >= 0)
        )
        kept = embedded.detach().split(len(present))
        for bank, new in zip(self.memories, kept, strict=False):
            bank.note(batch.extra["index"], new, present)
        sizes = counts(labels[:, 0].clamp(min=0), self.clusters[0])
        logs = {
            "assignment_entropy": assignment_entropy(sizes),
            "chance_loss": torch.tensor(sum(log(k) for k in self.clusters) / len(self.clusters)),
        }
        return Loss(total, logs, {self.key: kept[0]})

    def _embed(self, pooled: Tensor) -> Tensor:
        return F.normalize(self.head.project(pooled), dim=1)

    @property
    def memories(self) -> list[Bank]:
        """The banks of the embeddings of each view that is remembered."""
        return [cast("Bank", bank) for bank in self.banks]

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        for bank in self.memories:
            bank.write()

    def spaces(self) -> Spaces:
        return {self.key: self.head}


method = Method(Views(1, image=[Crop(), Flip()]), DeepCluster)
v2 = Method(swav.view, DeepClusterV2)
