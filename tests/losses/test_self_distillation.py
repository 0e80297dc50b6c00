"""DINO's cross-entropy against its formula, written as loops, and against lightly."""

from __future__ import annotations

import math

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


def test_all_is_counted_in_float32() -> None:
    student, teacher, centre = torch.randn(3, 6, 7), torch.randn(2, 6, 7), torch.randn(7)
    options = {"centre": centre, "student_temperature": 0.1, "teacher_temperature": torch.tensor(0.06)}
    expected = self_distillation(list(student), list(teacher), **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = self_distillation(list(student), list(teacher), **options)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        halves = self_distillation(list(student.bfloat16()), list(teacher.bfloat16()), **options)
    whole = self_distillation(list(student.bfloat16().float()), list(teacher.bfloat16().float()), **options)
    torch.testing.assert_close(halves, whole)
    assert halves.dtype == torch.float32


def test_one_teacher_and_one_other_view_by_hand() -> None:
    """Softmax of (2, 0) - (1, 0) over 0.5 is e^2 : 1; the student's log-softmax of (0, 3) over 2."""
    teacher, student = [torch.tensor([[2.0, 0.0]])], [torch.tensor([[9.0, 9.0]]), torch.tensor([[0.0, 3.0]])]
    options = {"centre": torch.tensor([1.0, 0.0]), "student_temperature": 2.0, "teacher_temperature": 0.5}
    p = math.e**2 / (math.e**2 + 1)
    log_sum = math.log(1 + math.e**1.5)
    expected = p * log_sum + (1 - p) * (log_sum - 1.5)
    torch.testing.assert_close(self_distillation(student, teacher, **options), torch.tensor([expected]))
