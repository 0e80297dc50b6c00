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
from mmssl.types import Batch, Encoder, Loss, Method, Preprocess, Spaces
from mmssl.views.pair import Pair


class Once(Pair):
    """Shows one view, whose colour is always jittered; the options are Pair's. Wu et al., CVPR 2018."""

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        views: int = 1,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        color_jitter: float = 1.0,
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.4),
        blur: float = 0.0,
        **rest: Any,
    ) -> None:
        super().__init__(
            preprocess,
            views=views,
            crop_scale=crop_scale,
            color_jitter=color_jitter,
            jitter=jitter,
            blur=blur,
            **rest,
        )


class NPID(MultiView):
    """Finds each sample's own row in the memory bank, by NCE or a softmax over all. Wu et al., CVPR 2018.

    embed_dim: of the linear projection. negatives: how many random rows stand for all; None compares with every one,
    which suits some ten thousand samples. momentum: how much of a row stays when its sample is seen, which in the
    authors' code stands for the paper's proximal term. encoder: as MultiView has it.
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


method = Method(Once, NPID)
