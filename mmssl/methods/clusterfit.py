"""ClusterFit: cluster what a trained encoder makes of the training set, and teach a new one which cluster is whose."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.losses.labels import labelled
from mmssl.numerics.constants import counts
from mmssl.numerics.kmeans import kmeans, nearest
from mmssl.numerics.monitors import assignment_entropy
from mmssl.objectives.clustering import Labels, agreed, by_number, survey
from mmssl.objectives.taught import Taught
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Epoch, Loss, Method
from mmssl.views.template import Views


class ClusterFit(Taught):
    """The cross-entropy of the cluster of a frozen encoder's features, one set of clusters for all of training.

    Yan et al., CVPR 2020. The clusters say less than the features and keep what is common to many samples: what the
    trained encoder's own task needed is lost. It is listed as image_teacher, or as the learner's key and _teacher, and
    train.start.image_teacher says from which folder its weights are taken.

    encoder: key of the encoder that learns.
    clusters: how many.
    iterations: of k-means.
    normalize: whether the teacher's features are scaled to unit length first.
    seed: of k-means.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        encoder: str = "image",
        clusters: int = 16_000,
        iterations: int = 20,
        normalize: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.classifier = nn.Linear(encoders[encoder].dim, clusters)
        self.labels = Labels([clusters])
        self.iterations, self.normalize, self.seed = iterations, normalize, seed

    @torch.no_grad()
    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        if epoch.number:
            return

        def embed(x: Tensor) -> Tensor:
            pooled = encoders[self.teacher](x).pooled.float()
            return F.normalize(pooled, dim=1) if self.normalize else pooled

        numbers, features = by_number(*survey(embed, self.teacher, epoch.sweep))
        centers = kmeans(features, self.labels.clusters[0], iterations=self.iterations, seed=self.seed)
        self.labels.write(numbers, agreed(nearest(features, centers)[0])[:, None])

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        labels = self.labels.of(batch)[:, 0]
        pooled = encoders[self.key](batch.views[self.key][0]).pooled
        present = batch.present(self.key) & batch.present(self.teacher)
        losses, counted, correct = labelled(self.classifier(pooled), labels, present)
        sizes = counts(labels.clamp(min=0), self.labels.clusters[0], counted)
        logs = {"correct": correct.nanmean(), "assignment_entropy": assignment_entropy(sizes)}
        return Loss(dist.mean(losses, counted), logs, {self.key: pooled.detach()}, {"correct": correct})


method = Method(Views(1, image=[Crop(), Flip()]), ClusterFit)
