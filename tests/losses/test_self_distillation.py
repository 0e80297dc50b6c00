"""DINO's cross-entropy against its formula, written as loops, and against lightly."""

from __future__ import annotations

import pytest
import torch

from mmssl.losses.self_distillation import self_distillation


def graded(loss, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = scores.clone().requires_grad_()
    value = loss(list(x))
    value.backward()
    return value.detach(), x.grad


def softmax(x: torch.Tensor) -> torch.Tensor:
    return x.exp() / x.exp().sum()


def plain(student: list[torch.Tensor], teacher: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    found = []
    for i in range(len(teacher)):
        for j in range(len(student)):
            for row in range(len(student[0])) if i != j else ():
                target = softmax((teacher[i][row] - centre) / 0.06)
                found.append(-(target * softmax(student[j][row] / 0.1).log()).sum())
    return sum(found) / len(found)


def test_value_and_gradient() -> None:
    torch.manual_seed(0)
    student, teacher, centre = torch.rand(5, 6, 7), torch.rand(2, 6, 7), torch.rand(7)

    def ours(scores: list[torch.Tensor]) -> torch.Tensor:
        options = {"centre": centre, "student_temperature": 0.1, "teacher_temperature": 0.06}
        return self_distillation(scores, list(teacher), **options).mean()

    found = graded(ours, student)
    torch.testing.assert_close(found, graded(lambda scores: plain(scores, teacher, centre), student))
    lightly = pytest.importorskip("lightly.loss")
    theirs = lightly.DINOLoss(output_dim=7, teacher_temp=0.06, student_temp=0.1)
    theirs.center.copy_(centre)
    torch.testing.assert_close(found, graded(lambda scores: theirs(list(teacher), scores), student))


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = torch.rand(2, 3, 4).requires_grad_(), torch.rand(2, 3, 4).requires_grad_()
    options = {"centre": torch.zeros(4), "student_temperature": 0.1, "teacher_temperature": 0.04}
    self_distillation(list(student), list(teacher), **options).sum().backward()
    assert teacher.grad is None and student.grad.any()
