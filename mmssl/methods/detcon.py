"""DetCon: find each segment of an image in its other view, among all other segments of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.regions import NUMBERS, Regions, region_nce
from mmssl.nn.head import Projection
from mmssl.nn.mlp import mlp
from mmssl.nn.regions import commonest, masked_mean
from mmssl.numerics.seeded_random import draws
from mmssl.objectives.multi_view import MultiView
from mmssl.objectives.teacher import Teacher
from mmssl.optim.schedule import cosine
from mmssl.transforms.segments import Felzenszwalb
from mmssl.types import Batch, Encoder, Features, Loss, Method, Spaces, View
from mmssl.views.byol import view as pair
from mmssl.views.mae import Seed
from mmssl.views.template import Views


class DetConS(MultiView):
    """InfoNCE between projections of pooled segments, both ways, on SimCLR. Henaff et al., ICCV 2021.

    A view's mask says the segment of each cell of the encoder's grid by most of its pixels. Of the segments that a view
    shows `masks` are drawn, with replacement. Checked against the loss of the authors' code (deepmind/detcon).

    embed_dim: size of the projection.
    hidden: widths of the projector's hidden layers.
    temperature: of the softmax.
    masks: segments drawn of each view.
    """

    compares = 2
    separate = True

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 256,
        hidden: Sequence[int] = (4096,),
        temperature: float = 0.1,
        masks: int = 16,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.head = Projection(self.dim, out=embed_dim, hidden=hidden)
        self.temperature, self.masks = temperature, masks

    def check_view(self, view: View) -> None:
        super().check_view(view)
        if view.aligned.get("mask") != "mask":
            raise UserError("detcon needs the field mask; give the view a step that makes it, or say view.fields.mask")

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present, seen = self.present(batch), self.features(encoders, batch)[:2]
        drawn = [self._draw(batch, view, features) for view, features in enumerate(seen)]
        embedded = [self.head.project(pooled(*each)) for each in zip(seen, drawn, strict=True)]
        queries, keys = self._compared(embedded, drawn, batch)
        losses = [
            region_nce(queries[i], keys[1 - i], keys[i], temperature=self.temperature, present=present)
            for i in range(2)
        ]
        mean = embedded[0].detach().unflatten(0, (len(present), -1)).mean(dim=1)
        return Loss(dist.mean(losses[0] + losses[1], present), embeddings={self.key: mean})

    def _draw(self, batch: Batch, view: int, features: Features) -> tuple[Tensor, Tensor]:
        """Returns the numbers (B, K) of segments that a view shows, and which cells are theirs (B, K, N)."""
        if features.grid is None or features.tokens is None:
            raise UserError("detcon pools cells on a grid, and this encoder gives none; choose one such as convnet")
        cells = commonest(self.fields(batch, "mask")[view], features.grid, NUMBERS)  # (B, N)
        there = torch.zeros(len(cells), NUMBERS, device=cells.device).scatter_(1, cells, 1.0)
        chances = draws(batch.extra["seed"], 2, self.masks, NUMBERS)[:, view]
        number = (chances * there[:, None]).argmax(dim=2)
        return number, (cells[:, None] == number[:, :, None]).float()

    def _compared(
        self, embedded: Sequence[Tensor], drawn: Sequence[tuple[Tensor, Tensor]], batch: Batch
    ) -> tuple[list[Regions], list[Regions]]:
        """Returns the queries and keys of both views."""
        regions = [regions_of(x, number) for x, (number, _) in zip(embedded, drawn, strict=True)]
        return regions, regions

    def spaces(self) -> Spaces:
        return {self.key: self.head}


class DetConB(DetConS):
    """DetCon on BYOL: predictions are compared with a teacher's projections. Henaff et al., ICCV 2021.

    embed_dim: size of the projection.
    hidden: widths of the hidden layers of the projector, and of the predictor.
    temperature: of the softmax.
    masks: segments drawn of each view.
    momentum: of the teacher's moving average at the start; it rises to 1 by a cosine.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 256,
        hidden: Sequence[int] = (4096,),
        temperature: float = 0.1,
        masks: int = 16,
        momentum: float = 0.996,
        encoder: str | None = None,
    ) -> None:
        super().__init__(
            encoders, embed_dim=embed_dim, hidden=hidden, temperature=temperature, masks=masks, encoder=encoder
        )
        self.predictor = mlp((embed_dim, *hidden, embed_dim))
        self.teacher = Teacher(encoders[self.key], self.head, separate=self.separate)
        self.momentum = momentum

    def _compared(
        self, embedded: Sequence[Tensor], drawn: Sequence[tuple[Tensor, Tensor]], batch: Batch
    ) -> tuple[list[Regions], list[Regions]]:
        taught = self.teacher.features(self.views(batch)[:2], len(self.present(batch)))
        queries, keys = [], []
        for x, features, each in zip(embedded, taught, drawn, strict=True):
            queries.append(regions_of(self.predictor(x), each[0]))
            with torch.no_grad():
                keys.append(regions_of(self.teacher.head.project(pooled(features, each)), each[0]))
        return queries, keys

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        decay = cosine(progress, start=self.momentum, end=1.0)
        self.teacher.follow(encoders[self.key], self.head, decay=decay)


def pooled(features: Features, drawn: tuple[Tensor, Tensor]) -> Tensor:
    """Returns the mean (B K, D) of the cells of each drawn segment."""
    assert features.tokens is not None
    return masked_mean(features.tokens, drawn[1]).flatten(0, 1)


def regions_of(embedded: Tensor, number: Tensor) -> Regions:
    """Returns embeddings (B K, D) as the regions of these numbers (B, K)."""
    return Regions(F.normalize(embedded.float(), dim=1).unflatten(0, number.shape), number)


view = Views(2, image=[Felzenszwalb(), *pair.modalities["image"]], after=[Seed()])

method = Method(view, DetConB)
s = Method(view, DetConS)
