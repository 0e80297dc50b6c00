"""EsViT: DINO, and each region says what the teacher says of the region of the other view that is most like it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.losses.self_distillation import region_distillation
from mmssl.nn.ema import ema_update
from mmssl.nn.head import Projection, tokens_of
from mmssl.nn.prototypes import Prototypes
from mmssl.numerics.neighbors import most_alike
from mmssl.objectives.accumulated import Accumulated
from mmssl.objectives.self_distillation import SelfDistillation, note_scores, recentre
from mmssl.types import Encoder, Features, Method
from mmssl.views import dino


class EsViT(SelfDistillation):
    """DINO's loss of views, and the same of regions, the cells of an encoder such as Swin, by heads of their own.

    A region's target is the teacher's distribution of the cell of the other view whose features, before the heads, are
    most like its own. Li et al., ICLR 2022. Checked against the authors' code (github.com/microsoft/esvit).

    prototypes: how many, for views and for regions.
    bottleneck: size of the embedding that prototypes are compared with.
    hidden: widths of the projectors' hidden layers.
    norm: BatchNorm in the projectors.
    lengths: whether the prototypes' lengths are learnt; without, they have unit length.
    student_temperature: of the network's distribution.
    teacher_temperature: of the teacher's, at the start, and from when the share `warmup` of training is over.
    warmup: share of training in which the teacher's temperature rises.
    memory: weight of the past in the centres, the averages of the teacher's scores.
    momentum: of the teacher's moving average at the start; it rises to 1 by a cosine.
    frozen: share of training during which the prototypes stay as they are, one of 300 epochs.
    weight: of the regions' loss, from 0 to 1; that of views has the rest.
    """

    region_centre: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        prototypes: int = 65536,
        bottleneck: int = 256,
        hidden: Sequence[int] = (2048, 2048),
        norm: bool = False,
        lengths: bool = True,
        student_temperature: float = 0.1,
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        warmup: float = 0.1,
        memory: float = 0.9,
        momentum: float = 0.996,
        frozen: float = 1 / 300,
        weight: float = 0.5,
        encoder: str | None = None,
    ) -> None:
        super().__init__(
            encoders,
            prototypes=prototypes,
            bottleneck=bottleneck,
            hidden=hidden,
            norm=norm,
            lengths=lengths,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
            warmup=warmup,
            memory=memory,
            momentum=momentum,
            frozen=frozen,
            encoder=encoder,
        )
        if not 0 <= weight <= 1:
            raise UserError(f"weight is {weight}; expected the share of the regions' loss, 0 to 1")
        self.region_head = Projection(self.dim, out=bottleneck, hidden=hidden, norm=norm, bias=True, gelu=True)
        self.region_prototypes = Prototypes(bottleneck, prototypes, lengths=lengths)
        self.teacher_region_head = copy.deepcopy(self.region_head).requires_grad_(False)
        self.teacher_region_prototypes = copy.deepcopy(self.region_prototypes).requires_grad_(False)
        self.register_buffer("region_centre", torch.zeros(prototypes))
        self.region_prototypes.trainable.copy_(self.prototypes.trainable)
        self.taught_regions, self.weight = Accumulated(), weight

    def cost(self, losses: Tensor, seen: list[Features], taught: list[Features], present: Tensor) -> Tensor:
        mine, goals = [tokens_of(view) for view in seen], [tokens_of(view) for view in taught]
        scores = [_scores(x, self.region_head, self.region_prototypes) for x in mine]
        targets = [_scores(x, self.teacher_region_head, self.teacher_region_prototypes) for x in goals]
        matches = {(i, j): most_alike(x, y) for i, x in enumerate(mine) for j, y in enumerate(goals) if i != j}
        regions = region_distillation(scores, targets, matches, **self.sharpness(self.region_centre))
        note_scores(self.taught_regions, targets, present)
        return (1 - self.weight) * losses + self.weight * regions

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        super().after_step(encoders, progress)
        decay = self.decay(progress)
        ema_update(self.teacher_region_head, self.region_head, decay=decay)
        ema_update(self.teacher_region_prototypes, self.region_prototypes, decay=decay)
        recentre(self.region_centre, self.taught_regions, memory=self.memory)
        self.region_prototypes.trainable.copy_(self.prototypes.trainable)


def _scores(tokens: Tensor, head: Projection, prototypes: Prototypes) -> Tensor:
    """Returns the scores (B, N, K) of tokens (B, N, D)."""
    found: Tensor = prototypes(F.normalize(head.project(tokens.flatten(0, 1)), dim=1))
    return found.unflatten(0, tokens.shape[:2])


method = Method(dino.view, EsViT)
