"""Self-distillation: a student's distribution over prototypes learns from a centred, sharper one of a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def region_distillation(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    matches: Mapping[tuple[int, int], Tensor],
    *,
    centre: Tensor,
    student_temperature: float,
    teacher_temperature: Tensor | float,
) -> Tensor:
    """Cross-entropy of each of the student's regions with the one that matches it of the teacher's other view.

    student (B, N, K), teacher (B, M, K): scores of the regions of views. matches: by the student's and the teacher's
    view, the number (B, N) of the teacher's region for each of the student's. It is the mean over regions and over
    pairs of different views; the rest as self_distillation has it. Li et al., ICLR 2022 (EsViT).
    """
    with torch.autocast(student[0].device.type, enabled=False):
        targets = [((scores.detach().float() - centre) / teacher_temperature).softmax(dim=2) for scores in teacher]
        losses = []
        for mine, scores in enumerate(student):
            log_p = (scores.float() / student_temperature).log_softmax(dim=2)
            for view, target in enumerate(targets):
                if view != mine:
                    index = matches[mine, view][..., None].expand(-1, -1, target.shape[2])
                    losses.append(-torch.einsum("bnk,bnk->bn", target.gather(1, index), log_p).mean(dim=1))
        return torch.stack(losses).mean(dim=0)
