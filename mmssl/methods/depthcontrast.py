"""DepthContrast: recognise a scan among others, between two views and two formats of it, points and voxels."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce
from mmssl.modalities import points as clouds
from mmssl.modalities.points import Cloud
from mmssl.nn.ema import ema_update
from mmssl.nn.head import Projection
from mmssl.objectives.queue import Queue
from mmssl.transforms import points
from mmssl.transforms.image import chance, check_range
from mmssl.types import Batch, Encoder, Loss, Method, Objective, Preprocess, Sample, Spaces, View, reading


class TwoCrops(View):
    """Shows two views of one scan, each to the encoders of all formats: cropped, holed, mirrored, turned and scaled.

    crop: share of the points around a random one that is kept; hole: share around another that is then dropped.
    mirror: how often x, and as often y, is flipped. Each view is turned about the vertical through its mean.
    """

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        crop: tuple[float, float] = (0.5, 1.0),
        hole: float = 0.2,
        mirror: float = 0.5,
        scale: tuple[float, float] = (0.8, 1.2),
        jitter: float = 0.0,
    ) -> None:
        super().__init__(preprocess)
        self.reads = ("points",)
        self.shows = dict.fromkeys(preprocess, 2)
        self.crop, self.scale = check_range("crop", crop, 0.01, 1.0), check_range("scale", scale, 0.01, 100.0)
        self.hole, self.mirror, self.jitter = hole, mirror, jitter

    def __call__(self, sample: Sample) -> Sample:
        if sample.get("points") is None:
            return {}
        cloud = clouds.load(sample["points"])
        views = [self._view(cloud) for _ in range(2)]
        return {key: [self._columns(key, view) for view in views] for key in self.preprocess}

    def _view(self, cloud: Cloud) -> Cloud:
        cloud = cloud.pick(points.crop_index(cloud, random.uniform(*self.crop)))
        if self.hole and len(cloud) > 1:
            cloud = cloud.pick(np.delete(np.arange(len(cloud)), points.crop_index(cloud, self.hole)))
        cloud = points.rotate(points.centred(cloud), points.random_rotation(axis="vertical"))
        for axis in (0, 1):
            cloud = points.mirror(cloud, axis=axis) if chance(self.mirror) else cloud
        cloud = points.random_scale(cloud, scale=self.scale)
        return points.jitter(cloud, sigma=self.jitter) if self.jitter else cloud

    def _columns(self, key: str, cloud: Cloud) -> Tensor:
        preprocess: Any = self.preprocess[key]
        columns: Tensor = preprocess.columns(points.subsample(cloud, preprocess.points or len(cloud)))
        return columns


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
            self.queue(key).note(rows[valid])
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


method = Method(TwoCrops, DepthContrast)
