"""PCL: find each sample's other view among earlier samples, and its cluster among clusters of several grains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.infonce import info_nce
from mmssl.losses.proto_nce import concentrations, proto_nce
from mmssl.numerics.constants import counts
from mmssl.numerics.kmeans import kmeans, nearest
from mmssl.numerics.monitors import assignment_entropy
from mmssl.objectives.clustering import Labels, agreed, by_number, survey
from mmssl.objectives.momentum_contrast import MomentumContrast
from mmssl.types import Batch, Encoder, Epoch, Loss, Method, evaluating
from mmssl.views import moco, moco_v2


class PCL(MomentumContrast):
    """InfoNCE against a queue, and ProtoNCE against the centres that k-means finds of the teacher's embeddings.

    Li et al., ICLR 2021.

    embed_dim: size of the projection.
    hidden: widths of the projector's hidden layers; by default none, and in the second version one as wide as the
        features.
    queue: how many keys of earlier samples are the negatives.
    momentum: of the teacher's moving average.
    clusters: of each clustering, made anew before every epoch.
    negatives: prototypes that each batch is compared with, besides its own.
    temperature: of the queue's loss, and the mean of the clusters' concentrations.
    smoothing: the paper's alpha, which keeps small clusters from being too concentrated.
    warmup: share of training without clusters.
    iterations: of k-means.
    """

    prototypes: Tensor
    concentration: Tensor
    done: Tensor
    epoch: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        hidden: Sequence[int] | None = None,
        queue: int = 16384,
        momentum: float = 0.999,
        clusters: Sequence[int] = (25_000, 50_000, 100_000),
        negatives: int = 16384,
        temperature: float = 0.1,
        smoothing: float = 10.0,
        warmup: float = 0.1,
        iterations: int = 20,
        encoder: str | None = None,
    ) -> None:
        super().__init__(
            encoders,
            embed_dim=embed_dim,
            hidden=hidden,
            temperature=temperature,
            queue=queue,
            momentum=momentum,
            encoder=encoder,
        )
        if not clusters:
            raise UserError("clusters is empty; give the number of clusters of at least one clustering")
        self.labels = Labels(clusters)
        self.register_buffer("prototypes", torch.zeros(sum(clusters), embed_dim))
        self.register_buffer("concentration", torch.ones(sum(clusters)))
        self.register_buffer("done", torch.zeros(()))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.long))
        self.clusters, self.negatives, self.iterations = list(clusters), negatives, iterations
        self.smoothing, self.warmup = smoothing, warmup

    @torch.no_grad()
    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        if self.done < self.warmup:
            return
        with evaluating(self.teacher):
            numbers, x = by_number(*survey(lambda x: self.taught(x, len(x)), self.key, epoch.sweep))
        labels = []
        for number, (prototypes, concentration) in enumerate(self._clusterings()):
            seed = int(self.epoch) * len(self.clusters) + number
            centres = agreed(kmeans(x, len(prototypes), iterations=self.iterations, seed=seed))
            nearby, squared = (agreed(found) for found in nearest(x, centres))
            prototypes.copy_(F.normalize(centres, dim=1))
            options = {"temperature": self.temperature, "smoothing": self.smoothing}
            concentration.copy_(concentrations(squared.sqrt(), nearby, len(prototypes), **options))
            labels.append(nearby)
        self.labels.write(numbers, torch.stack(labels, dim=1))
        self.epoch += 1

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        contrast, present = self.contrast(encoders, batch), self.present(batch)
        queries = contrast.queries
        instance = dist.mean(info_nce(contrast), present)
        labels = self.labels.of(batch)
        clustered = dist.mean(self._among_clusters(queries, labels.clamp(min=0)), present & (labels[:, 0] >= 0))
        sizes = counts(labels[:, 0].clamp(min=0), self.clusters[0], labels[:, 0] >= 0)
        logs = {
            "loss_instance": instance.detach(),
            "loss_clusters": clustered.detach(),
            "assignment_entropy": assignment_entropy(sizes),
        }
        return Loss(instance + clustered, logs, {self.key: queries.detach()})

    def _among_clusters(self, queries: Tensor, labels: Tensor) -> Tensor:
        """Returns ProtoNCE (B,) by labels (B, clusterings), the mean over clusterings."""
        pairs = zip(self._clusterings(), labels.unbind(1), strict=True)
        losses = [proto_nce(queries, *clusters, known, negatives=self.negatives) for clusters, known in pairs]
        return torch.stack(losses).mean(dim=0)

    def _clusterings(self) -> list[tuple[Tensor, Tensor]]:
        """Returns the prototypes (K, D) and concentrations (K,) of each clustering."""
        return list(zip(self.prototypes.split(self.clusters), self.concentration.split(self.clusters), strict=True))

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        super().after_step(encoders, progress)
        self.done.fill_(progress)


class PCLV2(PCL):
    """PCL with a hidden layer and a softer temperature. Li et al., ICLR 2021."""

    depth = 1

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        hidden: Sequence[int] | None = None,
        queue: int = 16384,
        momentum: float = 0.999,
        clusters: Sequence[int] = (25_000, 50_000, 100_000),
        negatives: int = 16384,
        temperature: float = 0.2,
        smoothing: float = 10.0,
        warmup: float = 0.1,
        iterations: int = 20,
        encoder: str | None = None,
    ) -> None:
        super().__init__(
            encoders,
            embed_dim=embed_dim,
            hidden=hidden,
            queue=queue,
            momentum=momentum,
            clusters=clusters,
            negatives=negatives,
            temperature=temperature,
            smoothing=smoothing,
            warmup=warmup,
            iterations=iterations,
            encoder=encoder,
        )


method = Method(moco.view, PCL)
v2 = Method(moco_v2.view, PCLV2)
