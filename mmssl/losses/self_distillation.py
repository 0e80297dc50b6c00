"""Self-distillation: a student's distribution over prototypes learns from a centred, sharper one of a teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def self_distillation(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    centre: Tensor,
    student_temperature: float,
    teacher_temperature: Tensor | float,
) -> Tensor:
    """Cross-entropy of the student's distributions with the teacher's, the mean over pairs of different views.

    student, teacher: scores (B, K) of views; view i of both is the same, and the student may have more. centre (K,):
    taken from the teacher's scores, so that none wins always. Teachers get no gradient. Returns (B,), float32.
    Caron et al., ICCV 2021 (DINO).
    """
    with torch.autocast(student[0].device.type, enabled=False):
        targets = [((scores.detach().float() - centre) / teacher_temperature).softmax(dim=1) for scores in teacher]
        losses = []
        for mine, scores in enumerate(student):
            log_p = (scores.float() / student_temperature).log_softmax(dim=1)
            others = [target for view, target in enumerate(targets) if view != mine]
            losses += [-torch.einsum("bk,bk->b", target, log_p) for target in others]
        return torch.stack(losses).mean(dim=0)
