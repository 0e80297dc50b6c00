"""DepthContrast: recognise a scan among others, between two views and two formats of it, points and voxels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.queue_nce import queue_nce
from mmssl.nn.ema import ema_update
from mmssl.nn.head import Projection
from mmssl.objectives.queue import Queue
from mmssl.transforms.points import Centre, Crop, Hole, Jitter, Mirror, Rotate, Scale
from mmssl.types import Batch, Encoder, Loss, Method, Objective, Spaces
from mmssl.views.template import Views


class DepthContrast(Objective):
    """Finds each scan's other view among a queue of scans, within each format and across formats.

    Every encoder whose key is points or points_... is a format. Keys come from averages of the encoders (momentum),
    one queue per format; with gradients accumulated, of the step's last part. Each of the losses is weighed by
    `within` or `across`. norm: BatchNorm in the heads; without it, few scans that look alike collapsed. answers: for
    what share of these questions a scan's own key came first.
    Zhang et al., ICCV 2021.
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
        self.uses = tuple(key for key in encoders if key.partition("_")[0] == "points")
        if not self.uses:
            raise UserError(f"depthcontrast needs an encoder under points or points_...; found {', '.join(encoders)}")
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
        self.newest: dict[str, Tensor] = {}

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        queries = {key: self.heads[key](encoders[key](batch.views[key][0])) for key in self.uses}
        with torch.no_grad():
            keys = {key: self.teacher_heads[key](self.teachers[key](batch.views[key][1])) for key in self.uses}
        valid = torch.stack([batch.present(key) for key in self.uses]).all(dim=0)
        if self.training:
            self.newest = {key: rows[valid] for key, rows in keys.items()}
        losses, weights, found = {}, {}, []
        for a in self.uses:
            for b in self.uses:
                values = queue_nce(queries[a], keys[b], self.queue(b).rows, scale=1 / self.temperature)
                losses[f"{a}-{b}"] = dist.mean(values, valid)
                weights[f"{a}-{b}"] = self.within if a == b else self.across
                found.append(nearer(queries[a], keys[b], self.queue(b).rows))
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        logs = {f"loss_{name}": value.detach() for name, value in losses.items()}
        correct = torch.stack(found).mean(dim=0).masked_fill(~valid, torch.nan)
        return Loss(total, logs, {key: x.detach() for key, x in queries.items()}, {"correct": correct})

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        for key in self.uses:
            ema_update(self.teachers[key], encoders[key], decay=self.momentum)
            ema_update(self.teacher_heads[key], self.heads[key], decay=self.momentum)
            self.queue(key).push(self.newest.pop(key))

    def queue(self, key: str) -> Queue:
        """Returns a format's queue of keys."""
        return cast("Queue", self.queues[key])

    def spaces(self) -> Spaces:
        return cast("Spaces", dict(self.heads.items()))


@torch.no_grad()
def nearer(queries: Tensor, keys: Tensor, queue: Tensor) -> Tensor:
    """Returns whether each query (B, D) is nearer to its own key (B, D) than to all of the queue (K, D), 1 or 0."""
    return ((queries * keys).sum(dim=1) > (queries @ queue.T).amax(dim=1)).float()


STEPS = [Crop(), Hole(), Centre(), Rotate(), Mirror(), Scale(factor=(0.8, 1.2)), Jitter(sigma=0.0)]

method = Method(Views(2, points=STEPS), DepthContrast)
