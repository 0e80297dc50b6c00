"""ReSim: MoCo v2 of whole crops, and of windows that slide over what two crops have in common, on two maps."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce
from mmssl.nn.ema import ema_update
from mmssl.nn.pyramid import FPN
from mmssl.nn.regions import window_shares
from mmssl.nn.stages import Stages
from mmssl.numerics.geometry import boxes_between, sliding_windows
from mmssl.objectives.momentum_contrast import MomentumContrast
from mmssl.types import Batch, Encoder, Loss, Method
from mmssl.views import moco_v2

AROUND = 3  # cells of each side of the squares of the teacher's maps that are the negatives


class ReSim(MomentumContrast):
    """InfoNCE of crops against a queue, and of each window of one crop with the same window of the teacher's other.

    Windows are averaged on the maps of an FPN; those that the other crop does not show whole do not count. Negatives
    are all squares of 3 x 3 cells of the teacher's map, of every image. Xiao et al., ICCV 2021. Checked against the
    authors' code (github.com/Tete-Xiao/ReSim), which takes negatives of its own process alone on the finer map, has
    centres of cells half a cell off, and therefore mirrors both crops alike.

    embed_dim: size of the projection of crops.
    hidden: widths of its hidden layers; by default one as wide as the features.
    temperature: of all softmaxes.
    queue: how many keys of earlier samples are the negatives of crops.
    momentum: of the teacher's moving average.
    width: channels of the FPN.
    cells: pixels between the cells of each map that is compared.
    windows: side of the windows on each map, in pixels.
    steps: pixels from one window to the next, on each map.
    """

    depth = 1

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        hidden: Sequence[int] | None = None,
        temperature: float = 0.2,
        queue: int = 65536,
        momentum: float = 0.999,
        width: int = 256,
        cells: Sequence[int] = (16, 8),
        windows: Sequence[int] = (48, 32),
        steps: Sequence[int] = (32, 24),
        encoder: str | None = None,
    ) -> None:
        super().__init__(
            encoders,
            embed_dim=embed_dim,
            hidden=hidden,
            temperature=temperature,
            queue=queue,
            momentum=momentum,
            encoder=encoder,
        )
        if not len(cells) == len(windows) == len(steps) or min([*cells, *windows, *steps], default=0) < 1:
            raise UserError(
                f"cells {cells}, windows {windows}, steps {steps}: expected pixels, one of each for each map"
            )
        self.stages = Stages(encoders[self.key], finest=min(cells))
        strides = self.stages.strides
        if set(cells) - set(strides):
            raise UserError(f"cells is {cells}; the encoder's maps have {strides} pixels between their cells")
        self.levels = [strides.index(stride) for stride in cells]
        self.windows, self.steps = list(windows), list(steps)
        self.pyramid = FPN(self.stages.channels, out=width)
        for level in set(range(len(strides))) - set(self.levels):
            self.pyramid.layers.layer_blocks[level] = nn.Identity()  # what is not compared learns nothing
        self.teacher_pyramid = copy.deepcopy(self.pyramid).requires_grad_(False)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        (one, other), present = self.views(batch)[:2], self.present(batch)
        seen, maps = self.stages(encoders[self.key], one)
        with torch.no_grad():
            taught, goals = self.stages(self.teacher.encoder, other)
            keys = F.normalize(self.teacher.head.project(taught.pooled), dim=1)
            goals = self.teacher_pyramid(goals)
        crops, maps = self.against_queue(seen.pooled, keys, present), self.pyramid(maps)
        total, logs = dist.mean(info_nce(crops), present), {}
        for level, side, step in zip(self.levels, self.windows, self.steps, strict=True):
            windows = sliding_windows(side / one.shape[-1], step / one.shape[-1], device=one.device)
            moved, inside = self._moved(windows, batch)
            contrast = _between(maps[level], goals[level], windows, moved, present, scale=1 / self.temperature)
            total = total + dist.mean(info_nce(contrast), (inside & present[:, None]).flatten())
            share = inside.float().mean(dim=1).masked_fill(~present, torch.nan).nanmean()
            logs[f"shared_{self.stages.strides[level]}"] = share
        correct = crops.correct().float().masked_fill(~present, torch.nan)
        logs["accuracy"] = correct.nanmean()
        return Loss(total, logs, {self.key: crops.queries.detach()}, {"correct": correct})

    def _moved(self, windows: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns where the first crop's windows lie in the second (B, K, 4), and which lie there whole (B, K)."""
        moved = boxes_between(windows, *self.places(batch)[:2])
        inside = ((moved >= 0) & (moved <= 1)).all(dim=2)
        return torch.where(inside[..., None], moved, windows), inside

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        super().after_step(encoders, progress)
        ema_update(self.teacher_pyramid, self.pyramid, decay=self.momentum)


def _between(mine: Tensor, goal: Tensor, windows: Tensor, moved: Tensor, present: Tensor, *, scale: float) -> Contrast:
    """Compares each window of a map (B, D, H, W) with the same of the teacher's, and with all squares of the teacher's.

    windows: (K, 4) of the first crop; moved: (B, K, 4), the same in the second.
    """
    queries = _averaged(mine, windows.expand(len(mine), -1, -1))
    own = _averaged(goal, moved)
    squares = F.avg_pool2d(goal.float(), AROUND, stride=1).flatten(2).mT  # (B, M, D)
    keys = dist.gather(F.normalize(squares, dim=2).flatten(0, 1))
    keep = dist.gather(present.repeat_interleave(squares.shape[1]))
    return Contrast(queries, keys, scale, own=own, keep=keep)


def _averaged(found: Tensor, windows: Tensor) -> Tensor:
    """Averages a map (B, D, H, W) over windows (B, K, 4), to unit length: (B K, D)."""
    with torch.autocast(found.device.type, enabled=False):
        means = window_shares(windows, found.shape[2:]) @ found.float().flatten(2).mT
    return F.normalize(means, dim=2).flatten(0, 1)


method = Method(moco_v2.view, ReSim)
