"""ClusterFit: cluster what a trained encoder makes of the training set, and teach a new one which cluster is whose."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.numerics.constants import counts
from mmssl.numerics.kmeans import kmeans, nearest
from mmssl.numerics.monitors import assignment_entropy
from mmssl.objectives.clustering import Labels, agreed, by_number, survey
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Epoch, Loss, Method, Objective
from mmssl.views.template import Views


class ClusterFit(Objective):
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
        super().__init__(encoders)
        teacher = f"{encoder}_teacher"
        if not {encoder, teacher} <= encoders.keys():
            raise UserError(
                f"clusterfit has {encoder} learn from {teacher}, and the run has only {', '.join(encoders)}; list both "
                f"among its encoders, and in train.start the folder of a trained one as {teacher}"
            )
        self.uses, self.key, self.teacher = (encoder, teacher), encoder, teacher
        encoders[teacher].requires_grad_(False).eval()
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
        logits = self.classifier(pooled).float()
        counted = batch.present(self.key) & batch.present(self.teacher) & (labels >= 0)
        sought = labels.clamp(min=0)
        total = dist.mean(F.cross_entropy(logits, sought, reduction="none"), counted)
        correct = (logits.argmax(dim=1) == sought).float().masked_fill(~counted, torch.nan)
        sizes = counts(sought, logits.shape[1], counted)
        logs = {"correct": correct.nanmean(), "assignment_entropy": assignment_entropy(sizes)}
        return Loss(total, logs, {self.key: pooled.detach()}, {"correct": correct})


method = Method(Views(1, image=[Crop(), Flip()]), ClusterFit)
