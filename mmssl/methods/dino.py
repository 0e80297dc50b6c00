"""DINO: say of every crop what a slow copy of the network, the teacher, says of the large ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

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
from mmssl.transforms.color import Blur, ColorJitter, Grayscale, Solarize
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Loss, Method, Spaces
from mmssl.views.template import Views

LARGE = 2  # views that the teacher sees, the first ones


class DINO(MultiView):
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
        present = self.present(batch)
        embedded = [F.normalize(self.head.project(pooled), dim=1) for pooled in self.pooled(encoders, batch)]
        taught = [F.normalize(x, dim=1) for x in self.teacher(self.views(batch)[:LARGE], len(present))]
        targets = [self.teacher_prototypes(x) for x in taught]
        losses = self_distillation(
            [self.prototypes(x) for x in embedded],
            targets,
            centre=self.centre,
            student_temperature=self.student_temperature,
            teacher_temperature=self.temperature,
        )
        seen, there = torch.cat(targets), present.repeat(len(targets))[:, None]
        self.taught.add(torch.cat([seen.where(there, 0.0).sum(dim=0), there.sum()[None]])[None])
        shares = ((seen - self.centre) / self.temperature).softmax(dim=1).where(there, 0.0).sum(dim=0)
        logs = {"assignment_entropy": assignment_entropy(shares), "teacher_temperature": self.temperature.clone()}
        return Loss(dist.mean(losses, present), logs, {self.key: embedded[0].detach()})

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        decay = cosine(progress, start=self.momentum, end=1.0)
        self.teacher.follow(encoders[self.key], self.head, decay=decay)
        ema_update(self.teacher_prototypes, self.prototypes, decay=decay)
        for sums in self.taught.take():  # (parts, K + 1)
            total = dist.total(sums.sum(dim=0))
            share = torch.where(total[-1] > 0, 1 - self.memory, 0.0)
            self.centre.lerp_(total[:-1] / total[-1].clamp(min=1), share)
        self._arrive(progress)

    def _arrive(self, progress: float) -> None:
        """Sets what depends on how far training is."""
        start, end = self.teacher_temperature
        self.temperature.fill_(ramp(progress, start=start, end=end, over=self.warmup))
        self.prototypes.trainable.fill_(float(progress >= self.frozen))

    def spaces(self) -> Spaces:
        return {self.key: self.head}

    def extra_encoders(self) -> dict[str, Encoder]:
        return {f"{self.key}_teacher": self.teacher.encoder}


COLORS = (Flip(), ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1), Grayscale())

method = Method(
    Views(  # the scales are for a ViT; a ResNet has 0.14 to 1 and 0.05 to 0.14
        2,
        image=[Crop(scale=(0.4, 1.0)), *COLORS, Blur(p=(1.0, 0.1)), Solarize(p=(0.0, 0.2))],
        small=Views(8, image=[Crop(scale=(0.05, 0.4), size=3 / 7), *COLORS, Blur(p=0.5)]),
    ),
    DINO,
)
