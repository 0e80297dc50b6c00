"""Exemplar: each training sample, however it is changed, is a surrogate class of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import torch
from torch import nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.nn.mlp import mlp
from mmssl.objectives.bank import SampleRows
from mmssl.objectives.multi_view import MultiView, pooled_views
from mmssl.transforms.color import ColorJitter
from mmssl.transforms.geometry import Rotate
from mmssl.transforms.image import Crop
from mmssl.types import Batch, Encoder, Loss, Method
from mmssl.views.template import Views


class Exemplar(MultiView):
    """Softmax over all training samples as classes. Dosovitskiy et al., NeurIPS 2014.

    The paper takes thousands of samples: give the task some shards of a large set.

    hidden: widths of the layers between the features and the classes.
    """

    def __init__(
        self, encoders: Mapping[str, Encoder], *, hidden: Sequence[int] = (512,), encoder: str | None = None
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        sizes = (self.dim, *hidden)
        self.hidden = nn.Sequential(mlp(sizes, bias=True), nn.ReLU()) if hidden else nn.Identity()
        self.classes = SampleRows(sizes[-1])

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


# Crops keep their shape; brightness, contrast and saturation stand for the paper's factors along principal components
# and in HSV.
STEPS = [
    Crop(scale=(0.25, 1.0), ratio=(1.0, 1.0)),
    ColorJitter(p=1.0, brightness=0.4, contrast=0.5, saturation=0.5, hue=0.1),
    Rotate(degrees=20.0),
]

method = Method(Views(1, image=STEPS), Exemplar)
