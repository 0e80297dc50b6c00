"""PCL: find each sample's other view among earlier samples, and its cluster among clusters of several grains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce
from mmssl.losses.proto_nce import concentrations, proto_nce
from mmssl.nn.head import Projection
from mmssl.numerics.constants import counts
from mmssl.numerics.kmeans import kmeans, nearest
from mmssl.numerics.monitors import assignment_entropy
from mmssl.objectives.clustering import Labels, agreed, by_number, survey
from mmssl.objectives.multi_view import MultiView, pooled_views
from mmssl.objectives.queue import Queue
from mmssl.objectives.teacher import Teacher
from mmssl.types import Batch, Encoder, Loss, Method, Spaces, evaluating
from mmssl.views import moco, moco_v2


class PCL(MultiView):
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

    compares = 2
    depth: ClassVar[int] = 0
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
        super().__init__(encoders, encoder=encoder)
        if not clusters:
            raise UserError("clusters is empty; give the number of clusters of at least one clustering")
        layers = (self.dim,) * self.depth if hidden is None else hidden
        self.head = Projection(self.dim, out=embed_dim, hidden=layers, norm=False, bias=True)
        self.teacher = Teacher(encoders[self.key], self.head)
        self.queue, self.labels = Queue(queue, embed_dim), Labels(clusters)
        self.register_buffer("prototypes", torch.zeros(sum(clusters), embed_dim))
        self.register_buffer("concentration", torch.ones(sum(clusters)))
        self.register_buffer("done", torch.zeros(()))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.long))
        self.clusters, self.negatives, self.iterations = list(clusters), negatives, iterations
        self.temperature, self.smoothing, self.momentum, self.warmup = temperature, smoothing, momentum, warmup

    @torch.no_grad()
    def before_epoch(self, encoders: Mapping[str, Encoder], sweep: Callable[[], Iterator[Batch]]) -> None:
        if self.done < self.warmup:
            return
        with evaluating(self.teacher):
            numbers, x = by_number(*survey(lambda x: F.normalize(self.teacher([x], len(x))[0], dim=1), self.key, sweep))
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
        (asked, shown), present = self.views(batch)[:2], self.present(batch)
        (pooled,) = pooled_views(encoders[self.key], [asked], len(present))
        queries = F.normalize(self.head.project(pooled), dim=1)
        keys = F.normalize(self.teacher([shown], len(present))[0], dim=1)
        self.queue.note(keys, present)
        contrast = Contrast(queries, self.queue.rows, 1 / self.temperature, own=keys)
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
        self.teacher.follow(encoders[self.key], self.head, decay=self.momentum)
        self.queue.write()
        self.done.fill_(progress)

    def spaces(self) -> Spaces:
        return {self.key: self.head}


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
