"""Distillation with unlabelled data (Chen et al., NeurIPS 2020) by its formula."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl.errors import UserError
from mmssl.methods.distill import Distill, method
from mmssl.nn.head import Classes
from mmssl.objectives.bank import reserve
from mmssl.objectives.few_labels import few
from mmssl.transforms.image import Crop, Flip

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import Tiny, defaults, epoch, pictures, same, shake

CLASSES = {number: number % 3 for number in range(12)}


def made(**options: Any) -> tuple[dict[str, Tiny], Distill, Classes]:
    encoders, head = {"image": Tiny(), "image_teacher": Tiny()}, Classes(6, classes=3, hidden=5)
    shake(*encoders.values(), head)
    objective = Distill(encoders, **{"classes": 3, "hidden": 5} | options)
    reserve(objective, 12)
    encoders["image_teacher"].brought = {"finetune": head.state_dict()}
    objective.choose(lambda field: CLASSES)
    objective.before_epoch(encoders, epoch())
    shake(objective.head)
    return encoders, objective, head.eval()


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_the_loss_is_the_papers(alpha: float) -> None:
    encoders, objective, head = made(alpha=alpha, temperature=0.4, fraction=0.5, seed=5)
    shown = pictures([4, 4], 7, absent=[2])
    shown.views = {"image": shown.views["image"][:1], "image_teacher": shown.views["image"][1:]}
    shown.extra["image_teacher_present"] = torch.arange(7) != 4
    found = objective(encoders, shown)
    assert encoders["image_teacher"].seen == [(False, False)]

    taught = head.scores(encoders["image_teacher"](shown.views["image_teacher"][0]).pooled).detach() / 0.4
    scores = objective.head.linear(encoders["image"](shown.views["image"][0]).pooled)
    known, rows = few(CLASSES, 0.5, seed=5), [0, 1, 3, 5, 6]
    losses = []
    for row in rows:
        apart = -(taught[row].softmax(0) * (scores[row] / 0.4).log_softmax(0)).sum()
        number = int(shown.extra["index"][row])
        own = -scores[row].log_softmax(0)[known[number]] if number in known else 0.0
        losses.append(alpha * apart + (1 - alpha) * own)
    same(found.total, torch.stack(losses).mean(), encoders["image"], objective)
    agreed = (scores.argmax(dim=1) == taught.argmax(dim=1))[rows].float()
    assert float(found.logs["agreement"]) == pytest.approx(float(agreed.mean()))
    assert ("correct" in found.logs) == (alpha < 1)
    assert found.answers["correct"].isnan().tolist() == [row not in rows for row in range(7)]


def test_no_label_is_read_where_none_is_learnt_from() -> None:
    _, objective, _ = made()
    assert (objective.known.rows == -1).all()
    objective.choose(lambda field: pytest.fail("no label is to be read"))
    _, objective, _ = made(alpha=0.9)
    assert objective.choose(lambda field: CLASSES) is None, "all samples are shown"
    assert (objective.known.rows >= 0).sum() == 3


def test_the_teacher_stays_and_is_that_of_the_run() -> None:
    encoders, objective, head = made()
    assert not any(
        p.requires_grad for p in (*encoders["image_teacher"].parameters(), *objective.teacher_head.parameters())
    )
    assert not objective.teacher_head.training
    assert all(
        a.equal(b)
        for a, b in zip(objective.teacher_head.state_dict().values(), head.state_dict().values(), strict=True)
    )
    (student,) = objective.spaces().values()
    assert student is objective.head and student.middle is None
    before = objective.teacher_head.linear.weight.clone()
    encoders["image_teacher"].brought = {}
    objective.before_epoch(encoders, epoch(number=1))
    assert objective.teacher_head.linear.weight.equal(before)
    with pytest.raises(UserError, match="begins without a head 'finetune'"):
        objective.before_epoch(encoders, epoch())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="has image learn from image_teacher"):
        Distill({"image": Tiny()}, classes=3)
    for wrong in ({"temperature": 0.0}, {"alpha": 1.1}, {"alpha": -0.1}):
        with pytest.raises(UserError, match="expected above 0, and from 0 to 1"):
            made(**wrong)


def test_the_papers_numbers() -> None:
    options = defaults(Distill)
    assert (options["temperature"], options["alpha"], options["space"]) == (1.0, 1.0, "finetune")
    teacher = Distill({"image": Tiny(), "image_teacher": Tiny()}, classes=4).teacher_head
    assert teacher.middle is not None and teacher.linear.weight.shape == (4, 6)
    steps = method.view({"image": Tiny().preprocess}).steps["image"]
    assert [type(step) for step in steps[0]] == [Crop, Flip]
