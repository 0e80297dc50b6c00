"""A network that says of every view what its teacher says of another: what DINO and methods that build on it share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.losses.self_distillation import self_distillation
from mmssl.nn.blocks import stop_drop_path
from mmssl.nn.ema import ema_update
from mmssl.nn.head import Projection
from mmssl.nn.prototypes import Prototypes
from mmssl.numerics.monitors import assignment_entropy
from mmssl.objectives.accumulated import Accumulated
from mmssl.objectives.multi_view import MultiView
from mmssl.objectives.teacher import Teacher
from mmssl.optim.schedule import cosine, ramp
from mmssl.types import Batch, Encoder, Features, Loss, Spaces

LARGE = 2  # views that the teacher sees, the first ones


class SelfDistillation(MultiView):
    """Cross-entropy of each view's distribution over prototypes with the teacher's, centred and sharper, of another.

    The teacher has no drop path; it is what the paper judges, and is saved beside the network as image_teacher.
    Caron et al., ICCV 2021.

    prototypes: how many.
    bottleneck: size of the embedding that prototypes are compared with.
    hidden: widths of the projector's hidden layers.
    norm: BatchNorm in the projector.
    lengths: whether the prototypes' lengths are learnt; without, they have unit length.
    student_temperature: of the network's distribution.
    teacher_temperature: of the teacher's, at the start, and from when the share `warmup` of training is over.
    warmup: share of training in which the teacher's temperature rises.
    memory: weight of the past in the centre, the average of the teacher's scores.
    momentum: of the teacher's moving average at the start; it rises to 1 by a cosine (0.9995 for batches of 256).
    frozen: share of training during which the prototypes stay as they are, one of 300 epochs.
    """

    compares = 2
    centre: Tensor
    temperature: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        prototypes: int = 65536,
        bottleneck: int = 256,
        hidden: Sequence[int] = (2048, 2048),
        norm: bool = False,
        lengths: bool = False,
        student_temperature: float = 0.1,
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        warmup: float = 0.1,
        memory: float = 0.9,
        momentum: float = 0.996,
        frozen: float = 1 / 300,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        self.head = Projection(self.dim, out=bottleneck, hidden=hidden, norm=norm, bias=True, gelu=True)
        self.prototypes = Prototypes(bottleneck, prototypes, lengths=lengths)
        self.teacher = Teacher(encoders[self.key], self.head)
        stop_drop_path(self.teacher)
        self.teacher_prototypes = copy.deepcopy(self.prototypes).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("temperature", torch.zeros(()))  # the teacher's, now
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.warmup, self.memory, self.momentum, self.frozen = warmup, memory, momentum, frozen
        self.taught = Accumulated()  # sums of the teacher's scores, and of how many
        self._arrive(0.0)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present, seen = self.present(batch), self.features(encoders, batch)
        taught = self.teacher.features(self.views(batch)[:LARGE], len(present))
        embedded = [F.normalize(self.head.project(view.pooled), dim=1) for view in seen]
        goals = [F.normalize(self.teacher.head.project(view.pooled), dim=1) for view in taught]
        targets = [self.teacher_prototypes(goal) for goal in goals]
        losses = self_distillation([self.prototypes(x) for x in embedded], targets, **self.sharpness(self.centre))
        note_scores(self.taught, targets, present)
        shares = ((torch.cat(targets) - self.centre) / self.temperature).softmax(dim=1)
        shares = shares.where(present.repeat(len(targets))[:, None], 0.0).sum(dim=0)
        logs = {"assignment_entropy": assignment_entropy(shares), "teacher_temperature": self.temperature.clone()}
        total = dist.mean(self.cost(losses, seen, taught, present), present)
        return Loss(total, logs, {self.key: embedded[0].detach()})

    def cost(self, losses: Tensor, seen: list[Features], taught: list[Features], present: Tensor) -> Tensor:
        """Returns what each sample costs (B,), given what its whole views do; a method may add to it."""
        return losses

    def sharpness(self, centre: Tensor) -> dict[str, Any]:
        """Returns how the losses make distributions of scores."""
        temperatures = {"student_temperature": self.student_temperature, "teacher_temperature": self.temperature}
        return {"centre": centre, **temperatures}

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        decay = self.decay(progress)
        self.teacher.follow(encoders[self.key], self.head, decay=decay)
        ema_update(self.teacher_prototypes, self.prototypes, decay=decay)
        recentre(self.centre, self.taught, memory=self.memory)
        self._arrive(progress)

    def decay(self, progress: float) -> float:
        """Returns the weight of the past in the teacher's moving average."""
        return cosine(progress, start=self.momentum, end=1.0)

    def _arrive(self, progress: float) -> None:
        """Sets what depends on how far training is."""
        start, end = self.teacher_temperature
        self.temperature.fill_(ramp(progress, start=start, end=end, over=self.warmup))
        self.prototypes.trainable.fill_(float(progress >= self.frozen))

    def spaces(self) -> Spaces:
        return {self.key: self.head}

    def extra_encoders(self) -> dict[str, Encoder]:
        return {f"{self.key}_teacher": self.teacher.encoder}


def note_scores(taught: Accumulated, scores: Sequence[Tensor], present: Tensor) -> None:
    """Keeps the sums of the teacher's scores, views of (B, ..., K), of samples that are present, and of how many."""
    rows = [view if view.ndim == 3 else view[:, None] for view in scores]  # (B, n, K)
    sums = [view.where(present[:, None, None], 0.0).sum(dim=(0, 1)) for view in rows]
    count = present.sum() * sum(view.shape[1] for view in rows)
    taught.add(torch.cat([torch.stack(sums).sum(dim=0), count[None]])[None])


def recentre(centre: Tensor, taught: Accumulated, *, memory: float) -> None:
    """Moves a centre (K,) towards the mean of the scores that all processes kept, if there are any."""
    for sums in taught.take():  # (parts, K + 1)
        total = dist.total(sums.sum(dim=0))
        share = torch.where(total[-1] > 0, 1 - memory, 0.0)
        centre.lerp_(total[:-1] / total[-1].clamp(min=1), share)
