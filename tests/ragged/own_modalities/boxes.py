"""Says where an image's boxes are, any number of them, from its features: what a detector's view has to bring."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mmssl import dist
from mmssl.types import Batch, Encoder, Loss, Method, Objective, Ragged, Sample, View


class Boxed(View):
    """Shows an image as it is, and fields["image"]["boxes"]: x, y, width and height of each, from 0 to 1."""

    def __init__(self, preprocess: Mapping[str, object]) -> None:
        super().__init__(preprocess)  # type: ignore[arg-type]
        self.reads = ("image", "boxes")

    def __call__(self, sample: Sample) -> Sample:
        boxes = torch.tensor(sample["boxes"], dtype=torch.float32).reshape(-1, 4)
        fields = {"image": {"boxes": [Ragged.pack([boxes])]}}
        return {"image": [self.preprocess["image"](sample["image"])], "fields": fields}


class Boxes(Objective):
    """Each box lies where its image's features say."""

    modalities = ("image",)

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        super().__init__(encoders)
        self.where = nn.Linear(encoders["image"].dim, 4)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        boxes: Ragged = batch.fields["image"]["boxes"][0]
        pooled = encoders["image"](batch.views["image"][0]).pooled
        errors = (self.where(pooled)[boxes.sample] - boxes.values).square().mean(1)
        total = dist.mean(errors, batch.present("image")[boxes.sample])
        return Loss(total, {"boxes": boxes.lengths.float().mean()}, {"image": pooled.detach()})


method = Method(Boxed, Boxes)
