"""Ambient sound: tell from a frame which kind of sound goes with it, by statistics that have been grouped before."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.numerics.constants import counts
from mmssl.numerics.kmeans import kmeans, nearest
from mmssl.numerics.monitors import assignment_entropy
from mmssl.objectives.clustering import agreed, by_number, survey
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Epoch, Loss, Method, Objective, evaluating
from mmssl.views.template import Views


class AmbientSound(Objective):
    """Classifies what is seen by the cluster, or by each bit of a code, of what is heard. Owens et al., ECCV 2016.

    Sounds are told apart by an encoder for audio that does not learn, as `sound_texture`; the groups are found in one
    pass over the training set, before the first.

    visual: the encoder that sees.
    code: clusters of k-means; or binary, whether a sound lies above the mean along each of the main directions.
    size: how many clusters, or bits.
    iterations: of k-means.
    """

    groups: Tensor
    middle: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        visual: Literal["image", "video"] = "image",
        code: Literal["clusters", "binary"] = "clusters",
        size: int = 30,
        iterations: int = 100,
    ) -> None:
        super().__init__(encoders)
        self.visual, self.uses = visual, (visual, "audio")
        for key in self.uses:
            if key not in encoders:
                raise UserError(
                    f"ambient_sound needs encoders for {visual} and audio, and the run has {', '.join(encoders)}; list "
                    "audio: {name: sound_texture}, or set visual"
                )
        dim = encoders["audio"].requires_grad_(False).eval().dim
        if not 1 < size <= (dim if code == "binary" else size):
            raise UserError(f"size is {size}; expected at least 2, and no more bits than the sound's {dim} statistics")
        self.classifier = nn.Linear(encoders[visual].dim, size)
        self.register_buffer("groups", torch.zeros(size, dim))  # centres, or directions
        self.register_buffer("middle", torch.zeros(dim))
        self.code, self.iterations = code, iterations

    @torch.no_grad()
    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        if epoch.number:
            return
        ear = encoders["audio"]
        with evaluating(ear):
            _, x = by_number(*survey(lambda sound: ear(sound).pooled, "audio", epoch.sweep))
        if len(x) < len(self.groups):
            raise UserError(f"{len(x)} sounds make no {len(self.groups)} groups; set size, or use more data")
        if self.code == "clusters":
            self.groups.copy_(agreed(kmeans(x, len(self.groups), iterations=self.iterations)))
            return
        self.middle.copy_(agreed(x.mean(dim=0)[None])[0])
        directions = torch.linalg.svd(x - self.middle, full_matrices=False).Vh
        self.groups.copy_(agreed(directions[: len(self.groups)]))

    @torch.no_grad()
    def sought(self, sounds: Tensor) -> Tensor:
        """Returns the clusters (B,), or bits (B, size), of sounds by their statistics (B, D)."""
        if self.code == "clusters":
            return nearest(sounds, self.groups)[0]
        return ((sounds.float() - self.middle) @ self.groups.T > 0).float()

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present = batch.present(self.visual) & batch.present("audio")
        pooled = encoders[self.visual](batch.views[self.visual][0]).pooled
        sought = self.sought(encoders["audio"](batch.views["audio"][0]).pooled)
        scores = self.classifier(pooled).float()
        if self.code == "clusters":
            losses, right = F.cross_entropy(scores, sought, reduction="none"), (scores.argmax(dim=1) == sought).float()
            sizes = counts(sought, scores.shape[1], present)
            logs = {"assignment_entropy": assignment_entropy(sizes), "chance_loss": torch.tensor(log(scores.shape[1]))}
            # how often naming always the commonest cluster would be right
            logs["commonest"] = sizes.max() / sizes.sum().clamp(min=1)
        else:
            losses = F.binary_cross_entropy_with_logits(scores, sought, reduction="none").mean(dim=1)
            right, logs = ((scores > 0) == (sought > 0)).float().mean(dim=1), {"chance_loss": torch.tensor(log(2))}
        correct = right.masked_fill(~present, torch.nan)
        logs["correct"] = correct.nanmean()
        return Loss(dist.mean(losses, present), logs, {self.visual: pooled.detach()}, {"correct": correct})


# 227 of 256 pixels, as AlexNet is shown images.
method = Method(Views(1, fixed=True, image=[Crop(scale=(0.7, 0.9), ratio=(1.0, 1.0)), Flip()]), AmbientSound)
