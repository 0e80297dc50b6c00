"""Metric transfer (Liu et al., 2018): labels by the teacher's metric, and a loss that they weigh in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods.metric_transfer import MetricTransfer, method
from mmssl.numerics.propagation import by_neighbors, by_spectrum
from mmssl.objectives.bank import reserve
from mmssl.objectives.few_labels import few
from mmssl.transforms.image import Crop, Flip

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import Tiny, defaults, epoch, epoch_of, pictures, same, shake

INDEX = [5, 0, 11, 3, 8, 1, 10, 4, 9, 2, 6]  # of 12 training samples, one is never shown
CLASSES = {number: number % 3 for number in range(12)}


def made(**options: Any) -> tuple[dict[str, Tiny], MetricTransfer]:
    encoders = {"image": Tiny(), "image_teacher": Tiny()}
    objective = MetricTransfer(encoders, **{"classes": 3, "fraction": 0.5, "seed": 4, "neighbors": 4} | options)
    shake(objective, *encoders.values(), by=1.0)
    reserve(objective, 12)
    return encoders, objective


@pytest.mark.parametrize("by", ["spectrum", "neighbors"])
@pytest.mark.parametrize("most", [1.0, 0.4])
def test_labels_are_those_that_the_teachers_features_spread(by: str, most: float) -> None:
    encoders, objective = made(by=by, most=most, vectors=5)
    assert objective.choose(lambda field: CLASSES) is None, "all samples are shown"
    shown, there = pictures([4], 11, absent=[2, 7]), [row for row in range(11) if row not in (2, 7)]
    shown.extra["image_teacher_present"] = shown.extra["image_present"]
    swept = list(epoch_of(shown, index=INDEX).sweep())
    for part in swept:
        part.views["image_teacher"] = part.views["image"]
    objective.before_epoch(encoders, epoch(sweep=lambda: iter(swept)))
    assert encoders["image_teacher"].seen == [(False, False)] * 2 and not encoders["image"].seen

    rows = sorted(there, key=lambda row: INDEX[row])
    numbers = [INDEX[row] for row in rows]
    x = encoders["image_teacher"](shown.views["image"][0]).pooled.detach()[rows]
    known = few(CLASSES, 0.5, seed=4)
    labels = torch.tensor([known.get(number, -1) for number in numbers])
    assert 0 < int((labels >= 0).sum()) < 9
    if by == "spectrum":
        spread, sure = by_spectrum(x, labels, classes=3, neighbors=4, vectors=5)
    else:
        spread, sure = by_neighbors(x, labels, classes=3, neighbors=4)
    free = sorted((row for row in range(9) if labels[row] < 0), key=lambda row: -float(sure[row]))
    for row in free[round(most * len(free)) :]:
        sure[row] = 0.0
    assert objective.known.rows[numbers, 0].tolist() == spread.tolist()
    assert objective.weights.rows[numbers, 0].tolist() == pytest.approx(sure.tolist())
    assert all(objective.known.rows[n] == -1 and objective.weights.rows[n] == 0 for n in {*range(12)} - {*numbers})
    kept = objective.known.rows.clone()
    objective.before_epoch(encoders, epoch(number=1))  # looks at nothing
    assert objective.known.rows.equal(kept)


def test_the_loss_is_the_cross_entropy_weighed_by_confidence() -> None:
    encoders, objective = made()
    shown = pictures([4], 6, absent=[4])  # of the numbers 0 3 6 2 5 1
    shown.views["image_teacher"] = shown.views["image"]
    shown.extra["image_teacher_present"] = torch.arange(6) != 1
    objective.known.rows[:7, 0] = torch.tensor([2, 0, 1, 1, 0, 0, 2])
    objective.weights.rows[:7, 0] = torch.tensor([1.0, 0.0, 0.25, 1.0, 0.5, 0.5, 0.8])
    found = objective(encoders, shown)
    logits = objective.head.linear(encoders["image"](shown.views["image"][0]).pooled)
    rows, labels, weights = [0, 2, 3], [2, 2, 1], torch.tensor([1.0, 0.8, 0.25])
    losses = F.cross_entropy(logits[rows], torch.tensor(labels), reduction="none")
    same(found.total, (weights * losses).sum() / 3, encoders["image"], objective)
    assert found.answers["correct"].isnan().tolist() == [False, True, False, False, True, True]
    assert float(found.logs["confidence"]) == pytest.approx((1 + 1 + 0.8 + 0.25 + 0.5 + 0) / 6)
    (head,) = objective.spaces().values()
    assert head is objective.head


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="has image learn from image_teacher"):
        MetricTransfer({"image": Tiny()}, classes=3)
    for wrong in ({"vectors": 1}, {"neighbors": 1}, {"most": 0.0}, {"most": 1.1}):
        with pytest.raises(UserError, match="expected at least 2, and a share above 0"):
            made(**wrong)
    encoders, objective = made()
    shown = pictures([4], 11)
    shown.views["image_teacher"] = shown.views["image"]
    swept = [shown]
    shown.extra["index"] = torch.tensor(INDEX)
    with pytest.raises(UserError, match="no sample that the teacher reads has a label"):
        objective.before_epoch(encoders, epoch(sweep=lambda: iter(swept)))


def test_the_papers_numbers() -> None:
    options = defaults(MetricTransfer)
    assert (options["vectors"], options["by"], options["most"]) == (200, "spectrum", 1.0)
    assert [made(by=by, neighbors=None)[1].neighbors for by in ("spectrum", "neighbors")] == [20, 200]
    steps = method.view({"image": Tiny().preprocess}).steps["image"]
    assert [type(step) for step in steps[0]] == [Crop, Flip]
