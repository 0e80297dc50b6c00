"""Exemplar: each training sample, however it is changed, is a surrogate class of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.nn.mlp import mlp
from mmssl.numerics.color import as_unit
from mmssl.objectives.bank import Rows
from mmssl.objectives.multi_view import MultiView, pooled_views
from mmssl.transforms.geometry import rotate
from mmssl.types import Batch, Encoder, Loss, Method, Preprocess
from mmssl.views.pair import Pair


class Distorted(Pair):
    """Shows one view: moved and scaled, turned, recoloured. Dosovitskiy et al., NeurIPS 2014.

    tilt: pictures turn by up to so many degrees either way. The other options are Pair's; crops keep their shape, and
    change of brightness, contrast and saturation stands for the paper's factors along principal components and in HSV.
    """

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        views: int = 1,
        crop_scale: tuple[float, float] = (0.25, 1.0),
        crop_ratio: tuple[float, float] = (1.0, 1.0),
        flip: float = 0.0,
        color_jitter: float = 1.0,
        jitter: tuple[float, float, float, float] = (0.4, 0.5, 0.5, 0.1),
        grayscale: float = 0.0,
        blur: float = 0.0,
        tilt: float = 20.0,
        **rest: Any,
    ) -> None:
        super().__init__(
            preprocess,
            views=views,
            crop_scale=crop_scale,
            crop_ratio=crop_ratio,
            flip=flip,
            color_jitter=color_jitter,
            jitter=jitter,
            grayscale=grayscale,
            blur=blur,
            **rest,
        )
        self.tilt = tilt

    def varies(self, name: str) -> bool:
        return (name == "image" and self.tilt > 0) or super().varies(name)

    def on_device(self, batch: Batch) -> Batch:
        batch = super().on_device(batch)
        if self.tilt and "image" in batch.views:
            batch.views["image"] = [rotate(as_unit(x), degrees=self.tilt) for x in batch.views["image"]]
        return batch


class Exemplar(MultiView):
    """Softmax over all training samples as classes. Dosovitskiy et al., NeurIPS 2014.

    hidden: layers between the features and the classes. The paper takes thousands of samples: give the task some shards
    of a large set. encoder: as MultiView has it.
    """

    def __init__(
        self, encoders: Mapping[str, Encoder], *, hidden: Sequence[int] = (512,), encoder: str | None = None
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        sizes = (self.dim, *hidden)
        self.hidden = nn.Sequential(mlp(sizes, bias=True), nn.ReLU()) if hidden else nn.Identity()
        self.classes = Rows(sizes[-1])

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        views, present, index = self.views(batch, least=1), self.present(batch), batch.extra["index"]
        pooled = pooled_views(encoders[self.key], views, len(present))
        hidden = [self.hidden(x) for x in pooled]
        with torch.autocast(pooled[0].device.type, enabled=False):
            scores = [x.float() @ self.classes.rows.float().T for x in hidden]
        losses = torch.stack([F.cross_entropy(x, index, reduction="none") for x in scores])
        correct = (scores[0].argmax(dim=1) == index).float().masked_fill(~present, torch.nan)
        return Loss(
            dist.mean(losses.mean(dim=0), present),
            {"accuracy": correct.nanmean(), "chance_loss": torch.tensor(log(len(self.classes.rows)))},
            {self.key: pooled[0].detach()},
            {"correct": correct},
        )


method = Method(Distorted, Exemplar)
