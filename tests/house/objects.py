"""Objects: each box of one crop predicts the teacher's features of the same box in the other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.ops import roi_align

from mmssl import dist
from mmssl.losses.cosine import negative_cosine
from mmssl.nn.head import Projection
from mmssl.nn.mlp import mlp
from mmssl.objectives.multi_view import MultiView
from mmssl.objectives.teacher import Teacher
from mmssl.transforms.color import ColorJitter
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Features, Loss, Method, Ragged
from mmssl.views.template import Views

SMALLEST = 4.0  # pixels of a box's side that both crops must show


class Objects(MultiView):
    """BYOL's loss between object features of two crops. Wei et al., NeurIPS 2021 (SoCo).

    embed_dim: of an object's projection.
    momentum: how slowly the teacher follows.
    """

    modalities = ("image",)
    separate = True

    def __init__(self, encoders: Mapping[str, Encoder], *, embed_dim: int = 64, momentum: float = 0.99) -> None:
        super().__init__(encoders, encoder="image")
        self.head = Projection(self.dim, out=embed_dim, hidden=(embed_dim,), norm=False)
        self.predictor = mlp((embed_dim, embed_dim, embed_dim), norm=False)
        self.teacher = Teacher(encoders["image"], self.head, separate=True)
        self.momentum = momentum

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present, boxes = self.present(batch), batch.fields["image"]["boxes"][:2]
        size = self.views(batch)[0].shape[-1]
        seen = self.features(encoders, batch)
        taught = self.teacher.features(self.views(batch)[:2], len(present))
        losses = []
        for mine, other in ((0, 1), (1, 0)):
            asked = self.predictor(self.head.project(pooled_boxes(seen[mine], boxes[mine], size)))
            goal = self.teacher.head.project(pooled_boxes(taught[other], boxes[other], size))
            losses.append(2 + 2 * negative_cosine(asked, goal))
        total = dist.mean(torch.stack(losses).sum(dim=0), shown(boxes[0]) & shown(boxes[1]))
        return Loss(total, {"boxes": boxes[0].lengths.float().mean()})

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.teacher.follow(encoders["image"], self.head, decay=self.momentum)


def shown(boxes: Ragged) -> Tensor:
    """Returns which boxes (sum n,) are large enough in a view; every view has the same, in one order."""
    return (boxes.values[:, 2:] - boxes.values[:, :2]).amin(dim=1) >= SMALLEST


def pooled_boxes(features: Features, boxes: Ragged, size: int) -> Tensor:
    """Returns features of each box (sum n, D), of a view of size x size pixels."""
    assert features.tokens is not None and features.grid
    cells = features.tokens.mT.unflatten(2, features.grid).contiguous()  # (B, D, H, W)
    rows = torch.cat([boxes.sample[:, None].to(boxes.values), boxes.values], dim=1)
    scale = features.grid[0] / size
    found: Tensor = roi_align(cells, rows, 1, spatial_scale=scale, sampling_ratio=2, aligned=True)
    return found.flatten(1)


STEPS = [Crop(scale=(0.5, 1.0)), Flip(), ColorJitter()]

method = Method(Views(2, image=STEPS, fields={"boxes": "boxes"}), Objects)
