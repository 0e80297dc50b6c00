"""MoCo: find each sample's other view, as a slow copy of the network sees it, among a queue of earlier samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.contrast import in_batch
from mmssl.losses.infonce import info_nce
from mmssl.nn.head import Projection
from mmssl.nn.mlp import mlp
from mmssl.objectives.momentum_contrast import MomentumContrast
from mmssl.objectives.multi_view import MultiView
from mmssl.objectives.teacher import Teacher
from mmssl.optim.schedule import cosine
from mmssl.types import Batch, Encoder, Loss, Method, Spaces
from mmssl.views import byol, moco, moco_v2


class MoCo(MomentumContrast):
    """InfoNCE of one view's projection with the teacher's of the other, against a queue. He et al., CVPR 2020.

    embed_dim: size of the projection.
    hidden: widths of the projector's hidden layers; by default none, and in the second version one as wide as the
        features.
    temperature: of the softmax.
    queue: how many keys of earlier samples are the negatives.
    momentum: of the teacher's moving average.
    symmetric: whether the second view is compared with the teacher's of the first as well, for the mean of both and
        two keys of each sample in the queue, as the authors have it for CIFAR-10.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        hidden: Sequence[int] | None = None,
        temperature: float = 0.07,
        queue: int = 65536,
        momentum: float = 0.999,
        symmetric: bool = False,
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
        self.symmetric = symmetric

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        contrasts = [self.contrast(encoders, batch, query=view) for view in range(1 + self.symmetric)]
        present = self.present(batch)
        correct = torch.stack([contrast.correct().float() for contrast in contrasts]).mean(dim=0)
        correct = correct.masked_fill(~present, torch.nan)
        return Loss(
            dist.mean(torch.stack([info_nce(contrast) for contrast in contrasts]).mean(dim=0), present),
            {"accuracy": correct.nanmean()},
            {self.key: contrasts[0].queries.detach()},
            {"correct": correct},
        )


class MoCoV2(MoCo):
    """MoCo with a hidden layer and SimCLR's blur. Chen et al., 2020."""

    depth = 1

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        hidden: Sequence[int] | None = None,
        temperature: float = 0.2,
        queue: int = 65536,
        momentum: float = 0.999,
        symmetric: bool = False,
        encoder: str | None = None,
    ) -> None:
        super().__init__(
            encoders,
            embed_dim=embed_dim,
            hidden=hidden,
            temperature=temperature,
            queue=queue,
            momentum=momentum,
            symmetric=symmetric,
            encoder=encoder,
        )


class MoCoV3(MultiView):
    """Predicts the teacher's projection of the other view among those of the batch, both ways. Chen et al., ICCV 2021.

    embed_dim: size of the projection.
    hidden: widths of the projector's hidden layers, one more for a ViT; the predictor has one of the first's width.
    temperature: of the softmax, 0.2 for a ViT, 1 for a ResNet; the loss is scaled by twice that.
    momentum: of the teacher's moving average at the start; it rises to 1 by a cosine.
    freeze: name of the encoder's patch embedding, such as patch in vit and model.patch_embed.proj in timm, which then
        stays random and keeps a ViT stable.
    """

    compares = 2
    separate = True

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 256,
        hidden: Sequence[int] = (4096, 4096),
        temperature: float = 0.2,
        momentum: float = 0.99,
        freeze: str | None = None,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        if freeze is not None:
            _freeze(encoders[self.key], freeze)
        self.head = Projection(self.dim, out=embed_dim, hidden=hidden, last_norm=True, affine=False)
        self.predictor = mlp((embed_dim, *hidden[:1], embed_dim), last_norm=True, affine=False)
        self.teacher = Teacher(encoders[self.key], self.head, separate=self.separate)
        self.temperature, self.momentum = temperature, momentum

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        views, present = self.views(batch)[:2], self.present(batch)
        projected = [self.head.project(x) for x in self.pooled(encoders, batch)[:2]]
        queries = [F.normalize(self.predictor(x).float(), dim=1) for x in projected]
        keys = [F.normalize(x, dim=1) for x in self.teacher(views, len(present))]
        ways = ((queries[0], keys[1]), (queries[1], keys[0]))
        losses = [info_nce(in_batch(*way, scale=1 / self.temperature, present=present)) for way in ways]
        embeddings = {self.key: projected[0].detach()}
        return Loss(2 * self.temperature * dist.mean(losses[0] + losses[1], present), embeddings=embeddings)

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        decay = cosine(progress, start=self.momentum, end=1.0)
        self.teacher.follow(encoders[self.key], self.head, decay=decay)

    def spaces(self) -> Spaces:
        return {self.key: self.head}


def _freeze(encoder: Encoder, name: str) -> None:
    try:
        part = encoder.get_submodule(name)
    except AttributeError:
        known = ", ".join(key for key, _ in encoder.named_children())
        raise UserError(f"freeze is {name!r}, but the encoder has no such part; it has {known}") from None
    part.requires_grad_(False)


method = Method(moco.view, MoCo)
v2 = Method(moco_v2.view, MoCoV2)
v3 = Method(byol.view, MoCoV3)
