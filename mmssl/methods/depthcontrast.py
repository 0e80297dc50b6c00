"""DepthContrast: recognise a scan among others, between two views and two formats of it, points and voxels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce
from mmssl.nn.ema import ema_update
from mmssl.nn.head import Projection
from mmssl.objectives.queue import Queue
from mmssl.transforms.point_steps import Centre, Crop, Hole, Jitter, Mirror, Rotate, Scale
from mmssl.types import Batch, Encoder, Loss, Method, Objective, Spaces, reading
from mmssl.views.template import Views


class DepthContrast(Objective):
    """Finds each scan's other view among a queue of scans, within each format and across formats.

    Every encoder of points is a format.
    `correct` says for what share of these questions a scan's own key came first. Zhang et al., ICCV 2021.

    embed_dim: size of the projection.
    hidden: widths of the projectors' hidden layers.
    temperature: of the softmax.
    queue: how many keys of earlier scans are the negatives, in one queue per format.
    momentum: of the moving averages of the encoders, from which keys come.
    within: weight of each loss between two views in one format.
    across: weight of each loss between two formats.
    norm: BatchNorm in the heads; without it, few scans that look alike collapsed.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        hidden: tuple[int, ...] = (512,),
        temperature: float = 0.1,
        queue: int = 131072,
        momentum: float = 0.999,
        within: float = 0.5,
        across: float = 0.5,
        norm: bool = False,
    ) -> None:
        super().__init__(encoders)
        self.uses = tuple(key for key, encoder in encoders.items() if encoder.modality == "points")
        if not self.uses:
            raise UserError(f"depthcontrast needs an encoder of points; the run has {reading(encoders)}")
        self.heads = nn.ModuleDict(
            {
                key: Projection(encoders[key].dim, out=embed_dim, hidden=hidden, norm=norm, last_norm=norm)
                for key in self.uses
            }
        )
        self.teachers = nn.ModuleDict({key: copy.deepcopy(encoders[key]) for key in self.uses}).requires_grad_(False)
        self.teacher_heads = copy.deepcopy(self.heads).requires_grad_(False)
        self.queues = nn.ModuleDict({key: Queue(queue, embed_dim) for key in self.uses})
        self.temperature, self.momentum, self.within, self.across = temperature, momentum, within, across

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        queries = {key: self.heads[key](encoders[key](batch.views[key][0])) for key in self.uses}
        with torch.no_grad():
            keys = {key: self.teacher_heads[key](self.teachers[key](batch.views[key][1])) for key in self.uses}
        valid = torch.stack([batch.present(key) for key in self.uses]).all(dim=0)
        for key, rows in keys.items():
            self.queue(key).note(rows, valid)
        losses, weights, found = {}, {}, []
        for a in self.uses:
            for b in self.uses:
                contrast = Contrast(queries[a], self.queue(b).rows, 1 / self.temperature, own=keys[b])
                losses[f"{a}-{b}"] = dist.mean(info_nce(contrast), valid)
                weights[f"{a}-{b}"] = self.within if a == b else self.across
                found.append(contrast.correct())
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        logs = {f"loss_{name}": value.detach() for name, value in losses.items()}
        correct = torch.stack(found).float().mean(dim=0).masked_fill(~valid, torch.nan)
        return Loss(total, logs, {key: x.detach() for key, x in queries.items()}, {"correct": correct})

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        for key in self.uses:
            ema_update(self.teachers[key], encoders[key], decay=self.momentum)
            ema_update(self.teacher_heads[key], self.heads[key], decay=self.momentum)
            self.queue(key).write()

    def queue(self, key: str) -> Queue:
        """Returns a format's queue of keys."""
        return cast("Queue", self.queues[key])

    def spaces(self) -> Spaces:
        return cast("Spaces", dict(self.heads.items()))


STEPS = [Crop(), Hole(), Centre(), Rotate(), Mirror(), Scale(factor=(0.8, 1.2)), Jitter(sigma=0.0)]

method = Method(Views(2, points=STEPS), DepthContrast)
