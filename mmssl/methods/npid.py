"""NPID: recognise each single sample among all of the training set, as a memory bank remembers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce
from mmssl.losses.nce import nce
from mmssl.nn.head import Projection
from mmssl.objectives.bank import Bank
from mmssl.objectives.multi_view import MultiView, pooled_views
from mmssl.transforms.color import ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Loss, Method, Spaces
from mmssl.views.template import Views


class NPID(MultiView):
    """Finds each sample's own row in the memory bank, by NCE or a softmax over all. Wu et al., CVPR 2018.

    embed_dim: size of the linear projection.
    temperature: of the softmax.
    negatives: random rows of the memory bank that stand for all; null compares with every one, which suits some ten
        thousand samples.
    momentum: share of a row that stays when its sample is seen, which in the authors' code stands for the paper's
        proximal term.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        temperature: float = 0.07,
        negatives: int | None = 4096,
        momentum: float = 0.5,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.head = Projection(self.dim, out=embed_dim, bias=True)
        self.bank = Bank(embed_dim, momentum=momentum)
        self.temperature, self.negatives = temperature, negatives

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        views, present, index = self.views(batch, least=1), self.present(batch), batch.extra["index"]
        pooled = pooled_views(encoders[self.key], views, len(present))
        embedded = [F.normalize(self.head.project(x), dim=1) for x in pooled]
        losses = torch.stack([self._recognise(x, index, present) for x in embedded])
        self.bank.note(index, embedded[0], present)
        return Loss(dist.mean(losses.mean(dim=0), present), embeddings={self.key: embedded[0].detach()})

    def _recognise(self, queries: Tensor, index: Tensor, present: Tensor) -> Tensor:
        if self.negatives is None:
            return info_nce(Contrast(queries, self.bank.rows, 1 / self.temperature, positives=index))
        options: dict[str, Any] = {"noise": self.negatives, "temperature": self.temperature, "present": present}
        return nce(*self.bank.scores(queries, index, **options))

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.bank.write()

    def spaces(self) -> Spaces:
        return {self.key: self.head}


COLORS = ColorJitter(p=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4)

method = Method(Views(1, image=[Crop(scale=(0.2, 1.0)), Flip(), COLORS, Grayscale()]), NPID)
