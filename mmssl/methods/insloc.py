"""InsLoc: find a picture that is pasted onto another one, by the box that it lies in, among a queue of earlier ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce
from mmssl.nn.head import Projection
from mmssl.numerics.boxes import RATIOS, SIDES, STEPS, near_anchors
from mmssl.numerics.seeded_random import draws
from mmssl.objectives.detector import BoxTask, embed_boxes, levels_of
from mmssl.objectives.queue import Queue
from mmssl.transforms.color import Blur, ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.transforms.paste import Paste
from mmssl.types import Batch, Encoder, Loss, Method
from mmssl.views.mae import Seed
from mmssl.views.template import Views


class InsLoc(BoxTask):
    """InfoNCE of a box's embedding, as MoCo has it, on each level of an FPN with a queue of its own; their sum.

    On the last level the query's box is an anchor that overlaps the true one. The pyramid and the head of the network
    are a detector's. Yang et al., CVPR 2021; as the authors' code (limbo0000/InstanceLoc) trains R50-FPN.

    embed_dim: size of a box's embedding.
    width: channels of the pyramid and of the head's convolutions.
    hidden: width of the head's two linear layers.
    temperature: of the softmax.
    queue: how many keys of earlier samples are the negatives, on each level.
    momentum: of the moving averages of the encoder and the network, from which keys come.
    overlap: intersection over union that the query's anchor has with its box, at least.
    """

    compares = 2

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        width: int = 256,
        hidden: int = 1024,
        temperature: float = 0.2,
        queue: int = 65536,
        momentum: float = 0.999,
        overlap: float = 0.5,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        head = Projection(hidden, out=embed_dim, bias=True)
        self.build(encoders, width=width, hidden=(hidden, hidden), head=head)
        self.queues = nn.ModuleList(Queue(queue, embed_dim) for _ in self.detector.strides)
        self.temperature, self.momentum, self.overlap = temperature, momentum, overlap

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present, (query, key) = self.present(batch), self.views(batch)[:2]
        asked, known = (boxes.values for boxes in self.fields(batch, "boxes")[:2])
        chances = draws(batch.extra["seed"], STEPS**2 * len(SIDES) * len(RATIOS))
        anchored = near_anchors(asked, chances, side=query.shape[-1], iou=self.overlap)
        last = len(self.queues) - 1
        queries = self._embedded(self.parts(encoders), query, [asked] * last + [anchored])
        with torch.no_grad():
            keys = self._embedded(self.teacher, key, [known] * (last + 1))
        losses = [
            dist.mean(self._recognise(*each, present), present) for each in zip(queries, keys, self.queues, strict=True)
        ]
        return Loss(torch.stack(losses).sum(), embeddings={self.key: queries[last].detach()})

    def _embedded(self, parts: nn.ModuleList, images: Tensor, boxes: Sequence[Tensor]) -> list[Tensor]:
        """Returns the embedding (B, D) of a box (B, 4) of each image on each level, of unit length."""
        levels, sample = levels_of(parts, images), torch.arange(len(images), device=images.device)
        return [
            F.normalize(embed_boxes(parts, levels, number, rows, sample), dim=1) for number, rows in enumerate(boxes)
        ]

    def _recognise(self, queries: Tensor, keys: Tensor, queue: nn.Module, present: Tensor) -> Tensor:
        rows = cast("Queue", queue)
        rows.note(keys, present)
        return info_nce(Contrast(queries, rows.rows, 1 / self.temperature, own=keys))

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.follow(encoders, decay=self.momentum)
        for queue in self.queues:
            cast("Queue", queue).write()


COLORS = (ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1), Grayscale(), Blur())
WHOLE = Crop(scale=(1.0, 1.0), ratio=(0.1, 10.0))

method = Method(
    Views(
        2,
        fixed=True,
        image=[Crop(scale=(0.2, 1.0), ratio=(0.5, 2.0)), Flip()],
        background=Views(2, fixed=True, image=[WHOLE, Flip()]),
        after=[Paste(), *COLORS, Seed()],
    ),
    InsLoc,
)
