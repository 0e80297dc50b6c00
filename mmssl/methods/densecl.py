"""DenseCL: MoCo v2 of whole crops and of their cells, each cell's positive the one of the other crop most like it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce
from mmssl.nn.ema import ema_update
from mmssl.nn.head import Cells
from mmssl.numerics.neighbors import most_alike
from mmssl.objectives.momentum_contrast import MomentumContrast
from mmssl.objectives.multi_view import features_of_views
from mmssl.objectives.queue import Queue
from mmssl.types import Batch, Encoder, Features, Loss, Method
from mmssl.views import moco_v2


class DenseCL(MomentumContrast):
    """InfoNCE of crops against a queue of crops, and of cells against a queue of crops' averaged cells.

    A cell's positive is the teacher's cell of the other crop whose features, before the heads, are most like its own.
    Wang et al., CVPR 2021. Checked against the authors' code (github.com/WXinlong/DenseCL).

    embed_dim: size of both projections.
    hidden: widths of both projectors' hidden layers; by default one as wide as the features.
    temperature: of both softmaxes.
    queue: how many keys of earlier samples are the negatives, in each of the two queues.
    momentum: of the teacher's moving average.
    weight: of the cells' loss, from 0 to 1; that of crops has the rest.
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
        weight: float = 0.5,
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
        if not 0 <= weight <= 1:
            raise UserError(f"weight is {weight}; expected the share of the cells' loss, 0 to 1")
        layers = (self.dim,) if hidden is None else hidden
        self.cells = Cells(self.dim, out=embed_dim, hidden=layers, norm=False, bias=True)
        self.teacher_cells = copy.deepcopy(self.cells).requires_grad_(False)
        self.cell_queue, self.weight = Queue(queue, embed_dim), weight

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        (query_view, key_view), present = self.views(batch)[:2], self.present(batch)
        (seen,) = features_of_views(encoders[self.key], [query_view], len(present))
        (taught,) = self.teacher.features([key_view], len(present))
        keys = F.normalize(self.teacher.head.project(taught.pooled), dim=1)
        crops = self.against_queue(seen.pooled, keys, present)
        losses = (1 - self.weight) * info_nce(crops) + self.weight * self._of_cells(seen, taught, present)
        correct = crops.correct().float().masked_fill(~present, torch.nan)
        logs, answers = {"accuracy": correct.nanmean()}, {"correct": correct}
        return Loss(dist.mean(losses, present), logs, {self.key: crops.queries.detach()}, answers)

    def _of_cells(self, seen: Features, taught: Features, present: Tensor) -> Tensor:
        """Returns the mean over each sample's cells (B,); notes the average of the teacher's for the queue."""
        queries = self.cells(seen)  # (B, N, D)
        assert seen.tokens is not None and taught.tokens is not None
        keys = self.teacher_cells.project_tokens(taught).detach()  # (B, M, D)
        self.cell_queue.note(F.normalize(keys.mean(dim=1), dim=1), present)
        match = most_alike(seen.tokens, taught.tokens)[..., None].expand(-1, -1, keys.shape[2])
        own = F.normalize(keys, dim=2).gather(1, match)
        contrast = Contrast(queries.flatten(0, 1), self.cell_queue.rows, 1 / self.temperature, own=own.flatten(0, 1))
        return info_nce(contrast).view(queries.shape[:2]).mean(dim=1)

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        super().after_step(encoders, progress)
        ema_update(self.teacher_cells, self.cells, decay=self.momentum)
        self.cell_queue.write()


method = Method(moco_v2.view, DenseCL)
