"""SoCo: say of each object's box what a slow copy of the network makes of it in another view, on a detector's parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.losses.cosine import negative_cosine
from mmssl.nn.head import Projection
from mmssl.nn.mlp import mlp
from mmssl.numerics.boxes import jittered, level_of
from mmssl.numerics.seeded_random import draws
from mmssl.objectives.detector import BoxTask, embed_boxes, levels_of
from mmssl.optim.schedule import cosine
from mmssl.transforms.color import Blur, ColorJitter, Grayscale, Solarize
from mmssl.transforms.image import Crop, Flip
from mmssl.transforms.proposals import Proposals
from mmssl.types import Batch, Encoder, Loss, Method, Ragged
from mmssl.views.mae import Seed
from mmssl.views.template import Views

LEAST = 1.0  # pixels of the shorter side of a box that a view shows


class SoCo(BoxTask):
    """BYOL's loss between a box in the whole image and in a crop, and in a small crop, both ways.

    Of the boxes that both views show `boxes` are drawn, again where there are fewer; those of the whole image are moved
    a little. A box is cut of the level of the FPN that suits its size in the view. The pyramid and the detector's head
    are trained with the encoder. Wei et al., NeurIPS 2021; as the authors' code (hologerry/SoCo) trains R50-FPN, but
    there boxes pass through the head on every level, of which one then counts.

    embed_dim: size of a box's projection.
    hidden: widths of the hidden layers of the projector, and of the predictor.
    width: channels of the pyramid and of the head's convolutions.
    features: width of the linear layer of the detector's head.
    boxes: drawn of each pair of views.
    jitter: how far boxes of the whole image are moved and scaled, over their sides.
    jitter_p: probability that a box is.
    sizes: roots of areas in pixels up to which boxes lie on each level but the last, finest first.
    momentum: of the teacher's moving average at the start; it rises to 1 by a cosine.
    """

    compares = 3

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 256,
        hidden: Sequence[int] = (4096,),
        width: int = 256,
        features: int = 1024,
        boxes: int = 4,
        jitter: float = 0.1,
        jitter_p: float = 0.5,
        sizes: tuple[float, ...] = (48.0, 96.0, 192.0),
        momentum: float = 0.99,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.build(
            encoders,
            width=width,
            hidden=(features,),
            head=Projection(features, out=embed_dim, hidden=hidden, bias=True),
        )
        self.predictor = mlp((embed_dim, *hidden, embed_dim), bias=True)
        self.boxes, self.jitter, self.jitter_p, self.sizes = boxes, jitter, jitter_p, sizes
        self.momentum = momentum

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present, views = self.present(batch), self.views(batch, self.compares)[: self.compares]
        pairs = [self._pair(batch, other) for other in range(1, self.compares)]
        online, taught = self.parts(encoders), self.teacher
        maps = [levels_of(online, view) for view in views]
        with torch.no_grad():
            targets = [levels_of(taught, view) for view in views]
        total, first = torch.zeros((), device=present.device), []
        for other, (boxes, there) in enumerate(pairs, start=1):
            losses = []
            for asked, known, way in ((0, other, boxes), (other, 0, boxes[::-1])):
                embedded = self._embedded(online, maps[asked], way[0])
                with torch.no_grad():
                    target = self._embedded(taught, targets[known], way[1])
                losses.append(2 + 2 * negative_cosine(self.predictor(embedded), target))
                first.append(embedded)
            each = torch.stack(losses).sum(dim=0).view(len(present), -1).mean(dim=1)
            total = total + dist.mean(each, present & there)
        mean = first[0].detach().view(len(present), self.boxes, -1).mean(dim=1)
        return Loss(total, embeddings={self.key: mean})

    def _pair(self, batch: Batch, other: int) -> tuple[list[Tensor], Tensor]:
        """Draws boxes (B, K, 4) of the whole image and of another view, row by row alike; and who has any (B,)."""
        whole, cropped = (self.fields(batch, "boxes")[view] for view in (0, other))
        seed = batch.extra["seed"] + other
        index, there = shared(whole, cropped, seed, self.boxes)
        first, second = (F.pad(boxes.values, (0, 0, 0, 1))[index] for boxes in (whole, cropped))
        chances, side = draws(seed, self.boxes, 5), self.views(batch)[0].shape[-1]
        return [jittered(first, chances, ratio=self.jitter, p=self.jitter_p, side=side), second], there

    def _embedded(self, parts: nn.ModuleList, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Returns projections (B K, D) of boxes (B, K, 4), each on the level of its size."""
        sample = torch.arange(len(boxes), device=boxes.device).repeat_interleave(boxes.shape[1])
        rows = boxes.flatten(0, 1)
        return embed_boxes(parts, levels, level_of(rows, self.sizes, len(levels)), rows, sample)

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.follow(encoders, decay=cosine(progress, start=self.momentum, end=1.0))


def shared(one: Ragged, other: Ragged, seed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Draws rows (B, count) of boxes that two views both show, the same again where there are fewer; who has any (B,).

    one, other: packed boxes (sum N, 4) of the same objects, in pixels of each view. seed: (B,), of each sample. The row
    of a sample without any is sum N.
    """
    total, sample = len(one.values), one.sample
    sides = torch.stack([boxes.values[:, 2:] - boxes.values[:, :2] for boxes in (one, other)], dim=1)
    shown = (sides >= LEAST).flatten(1).all(dim=1)
    rows = torch.arange(total, device=seed.device)
    chance = draws(seed[sample] * 4099 + rows - one.starts[sample], 1)[:, 0].double()
    order = (2 * sample.double() + torch.where(shown, chance, 1 + chance)).argsort()  # by sample, those shown first
    number = torch.zeros_like(seed).index_add_(0, sample, shown.to(seed.dtype))
    place = one.starts[:, None] + torch.arange(count, device=seed.device) % number.clamp(min=1)[:, None]
    order = F.pad(order, (0, 1), value=total)
    return order[torch.where(number[:, None] > 0, place, total)], number > 0


COLORS = (ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1), Grayscale())
WHOLE = Crop(scale=(1.0, 1.0), ratio=(0.1, 10.0))
PART = (*COLORS, Blur(p=0.1), Solarize(p=0.2))

method = Method(
    Views(
        1,
        fixed=True,
        image=[Proposals(), WHOLE, Flip(), *COLORS, Blur(p=1.0)],
        part=Views(1, fixed=True, image=[Crop(scale=(0.5, 1.0)), Flip(), *PART]),
        small=Views(1, fixed=True, image=[Crop(scale=(0.5, 1.0), size=0.5), Flip(), *PART]),
        after=[Seed()],
    ),
    SoCo,
)
