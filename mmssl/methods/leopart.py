"""Leopart: say of every patch of a crop which cluster a slow copy of the network puts it in, in another crop."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mmssl import dist
from mmssl.nn.blocks import stop_drop_path
from mmssl.nn.class_attention import ClassAttention, foreground
from mmssl.nn.ema import ema_update
from mmssl.nn.head import Cells
from mmssl.nn.prototypes import Prototypes
from mmssl.numerics.constants import counts
from mmssl.numerics.monitors import assignment_entropy
from mmssl.numerics.overlaps import cut_at, overlap
from mmssl.numerics.seeded_random import draws
from mmssl.numerics.sinkhorn import sinkhorn
from mmssl.objectives.multi_view import MultiView
from mmssl.objectives.queue import Queue
from mmssl.objectives.teacher import Teacher
from mmssl.optim.schedule import cosine
from mmssl.transforms.color import Blur, ColorJitter, Grayscale
from mmssl.transforms.image import Crop
from mmssl.types import Batch, Encoder, Features, Loss, Method, Spaces
from mmssl.views.mae import Seed
from mmssl.views.template import Views

LARGE = 2  # views that are assigned to clusters, the first ones
STORED = 10  # patches of each sample and view that go to the queue
LEAST = 0.01  # area that two crops share, over that of the box around all crops; twice that of two large ones


class Leopart(MultiView):
    """Cross-entropy of patches' scores with the teacher's clusters of another crop, aligned by RoIAlign.

    Clusters are spread evenly (Sinkhorn-Knopp) over the patches of the large crops and a queue. The foreground alone
    counts, by the attention of the teacher's class token. Meant to begin with DINO's weights (train.start). The teacher
    is saved beside the network, which the paper judges, as image_teacher. Ziegler & Asano, CVPR 2022.

    Foreground, loss and gradients are the authors' code's to float32's precision. Two crops that share too little of
    the image do not count, where the authors draw them anew; and a cell that lies within the foreground counts also
    where their test of it fails by rounding.

    prototypes: how many clusters.
    embed_dim: size of the embedding that prototypes are compared with.
    hidden: widths of the projector's hidden layers.
    temperature: of the network's distribution.
    epsilon: of Sinkhorn-Knopp: small ones make sharp assignments.
    iterations: of Sinkhorn-Knopp.
    queue: patches of earlier steps that are assigned along with each batch, once there are so many.
    size: cells along each side of what RoIAlign cuts.
    mask: the patches that count: foreground, background or all.
    mass: share of the attention that the foreground holds.
    momentum: of the teacher's moving average at the start; it rises to 1 by a cosine.
    """

    compares = 2

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        prototypes: int = 300,
        embed_dim: int = 256,
        hidden: Sequence[int] = (2048, 2048),
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        queue: int = 8192,
        size: int = 7,
        mask: Literal["foreground", "background", "all"] = "foreground",
        mass: float = 0.6,
        momentum: float = 0.9995,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.head = Cells(self.dim, out=embed_dim, hidden=hidden, norm=False, bias=True, gelu=True)
        self.prototypes = Prototypes(embed_dim, prototypes)
        self.teacher = Teacher(encoders[self.key], self.head)
        stop_drop_path(self.teacher)
        self.teacher_prototypes = copy.deepcopy(self.prototypes).requires_grad_(False)
        self.attention = None if mask == "all" else ClassAttention(encoders[self.key])
        self.queues = nn.ModuleList(Queue(queue, embed_dim) for _ in range(LARGE if queue else 0))
        for empty in self.queues:
            cast("Queue", empty).rows.zero_()
        self.temperature, self.epsilon, self.iterations, self.size = temperature, epsilon, iterations, size
        self.mask, self.mass, self.momentum = mask, mass, momentum

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present, places = self.present(batch), self.places(batch)
        seen = self.features(encoders, batch)
        scores = [maps_of(self.prototypes(self.head(each).flatten(0, 1)), each) for each in seen]
        around = area_of_all(places)
        values, weights, chosen = [], [], []
        for large in range(LARGE):
            assigned, mask = self._assigned(batch, large, present)
            chosen.append(assigned.argmax(dim=1).flatten())
            for other in (number for number in range(len(seen)) if number != large):
                box, area = overlap(places[large], places[other])
                enough = area >= LEAST * (1 + (other < LARGE)) * around
                box = torch.where(enough[:, None], box, box.new_zeros(()))
                target, kept = (cut_at(x, places[large], box, self.size) for x in (assigned, mask))
                predicted = cut_at(scores[other], places[other], box, self.size) / self.temperature
                values.append(-(target * predicted.log_softmax(dim=1)).sum(dim=1).flatten())
                weights.append((kept[:, 0] > 0.999) & (enough & present)[:, None, None])
        losses = [dist.mean(*each) for each in zip(values, (w.flatten() for w in weights), strict=True)]
        spread = counts(torch.cat(chosen), len(self.prototypes.directions))
        logs = {"assignment_entropy": assignment_entropy(spread)}
        return Loss(torch.stack(losses).mean(), logs, {self.key: seen[0].pooled.detach()})

    @torch.no_grad()
    def _assigned(self, batch: Batch, large: int, present: Tensor) -> tuple[Tensor, Tensor]:
        """Returns a large view's assignments (B, K, H, W) by the teacher, and which cells count (B, 1, H, W)."""
        view, teacher = self.views(batch)[large], self.teacher
        if self.attention is None:
            (features,) = teacher.features([view], len(present))
            there = torch.ones_like(cast("Tensor", features.tokens)[:, :, 0], dtype=torch.bool)
        else:
            features, attention = self.attention(teacher.encoder, view)
            there = foreground(attention, cast("tuple[int, ...]", features.grid), mass=self.mass)
            there = there if self.mask == "foreground" else ~there
        embedded = cast("Cells", teacher.head)(features)  # (B, N, D)
        scores, every = self.teacher_prototypes(embedded.flatten(0, 1)), present[:, None].expand_as(there).flatten()
        rows = len(scores)
        if self.queues:
            queue = cast("Queue", self.queues[large])
            waiting, full = queue.rows[dist.rank() :: dist.world()], queue.rows.any(dim=1).all()
            scores = torch.cat([scores, self.prototypes(waiting)])
            every = torch.cat([every, full.expand(len(waiting))])
            self._store(queue, embedded, there & present[:, None], batch.extra["seed"] + large)
        found = sinkhorn(scores, epsilon=self.epsilon, iterations=self.iterations, present=every)[:rows]
        return maps_of(found, features), maps_of(there.flatten()[:, None].float(), features)

    def _store(self, queue: Queue, embedded: Tensor, there: Tensor, seed: Tensor) -> None:
        """Notes some patches of each sample that count, drawn at random, for the queue."""
        chance = draws(seed, there.shape[1]) + there.float()
        drawn = chance.topk(min(STORED, there.shape[1]), dim=1).indices
        rows = embedded.gather(1, drawn[:, :, None].expand(-1, -1, embedded.shape[2]))
        queue.note(rows.flatten(0, 1), there.gather(1, drawn).flatten())

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        decay = cosine(progress, start=self.momentum, end=1.0)
        self.teacher.follow(encoders[self.key], self.head, decay=decay)
        ema_update(self.teacher_prototypes, self.prototypes, decay=decay)
        for queue in self.queues:
            cast("Queue", queue).write()

    def spaces(self) -> Spaces:
        return {self.key: self.head}

    def extra_encoders(self) -> dict[str, Encoder]:
        return {f"{self.key}_teacher": self.teacher.encoder}


def maps_of(rows: Tensor, features: Features) -> Tensor:
    """Returns rows (B N, C), one of each cell, as maps (B, C, H, W)."""
    assert features.grid is not None and features.tokens is not None
    return rows.unflatten(0, features.tokens.shape[:2]).mT.unflatten(2, features.grid)


def area_of_all(places: Sequence[Tensor]) -> Tensor:
    """Returns the area (B,) of the box around all views, in pixels of the source."""
    corners = torch.cat([torch.stack([p[:, :, 2], p.float().sum(dim=2)], dim=1) for p in places], dim=1)  # (B, 2 V, 2)
    return (corners.amax(dim=1) - corners.amin(dim=1)).prod(dim=1)


COLORS = (ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2), Grayscale(), Blur())

method = Method(
    Views(
        LARGE,
        image=[Crop(scale=(0.25, 1.0)), *COLORS],
        small=Views(4, image=[Crop(scale=(0.05, 0.25), size=3 / 7), *COLORS]),
        after=[Seed()],
    ),
    Leopart,
)
