"""Fine-tuning from the middle of a head (Chen et al., NeurIPS 2020) by its formula, and a run of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.methods.finetune import Finetune, method
from mmssl.nn.head import Classes, Middle
from mmssl.objectives.bank import reserve
from mmssl.objectives.few_labels import few
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Features

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import Tiny, defaults, epoch, pictures, same, shake

CLASSES = {number: number % 3 for number in range(12)}


def made(**options: Any) -> tuple[dict[str, Tiny], Finetune, Middle]:
    encoders, middle = {"image": Tiny()}, Middle(6, out=5)
    objective = Finetune(encoders, **{"classes": 3, "hidden": 5, "fraction": 0.5, "seed": 2} | options)
    reserve(objective, 12)
    shake(objective, encoders["image"], middle)
    encoders["image"].brought = {"simclr_middle": middle.state_dict()}
    return encoders, objective, middle


def by_hand(objective: Finetune, pooled: Tensor) -> Tensor:
    """Linear, BatchNorm of the batch, ReLU, linear; none of the three without a middle."""
    if objective.head.middle is not None:
        first, norm, _ = objective.head.middle.layers
        x = pooled @ first.weight.T
        x = (x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + 1e-5).sqrt() * norm.weight + norm.bias
        pooled = x.clamp(min=0)
    return pooled @ objective.head.linear.weight.T + objective.head.linear.bias


@pytest.mark.parametrize("hidden", [5, 0])
def test_the_loss_is_the_cross_entropy_of_the_few_behind_the_middle(hidden: int) -> None:
    encoders, objective, _ = made(hidden=hidden)
    chosen = objective.choose(lambda field: CLASSES)
    assert chosen == few(CLASSES, 0.5, seed=2)
    objective.before_epoch(encoders, epoch())
    shown = pictures([4], 7, absent=[2])  # of the numbers 0 3 6 2 5 1 4
    rows = [row for row in (0, 1, 3, 4, 5, 6) if int(shown.extra["index"][row]) in chosen]
    assert 0 < len(rows) < 6
    found = objective(encoders, shown)
    logits = by_hand(objective, encoders["image"](shown.views["image"][0]).pooled)[rows]
    labels = torch.tensor([CLASSES[int(shown.extra["index"][row])] for row in rows])
    same(found.total, F.cross_entropy(logits, labels), encoders["image"], objective)
    right = (logits.argmax(dim=1) == labels).float()
    assert found.answers["correct"][rows].tolist() == right.tolist()
    assert int(found.answers["correct"].isnan().sum()) == 7 - len(rows)
    assert float(found.logs["correct"]) == pytest.approx(float(right.mean()))


def test_the_middle_is_the_runs_on_the_first_pass_alone() -> None:
    encoders, objective, middle = made()
    assert objective.head.middle is not None
    before = objective.head.middle.layers[0].weight.clone()
    objective.before_epoch(encoders, epoch(number=1))
    assert objective.head.middle.layers[0].weight.equal(before)
    objective.before_epoch(encoders, epoch())
    assert objective.head.middle.layers[0].weight.equal(middle.layers[0].weight)
    encoders, random, _ = made(space=None)
    random.before_epoch(encoders, epoch())
    assert random.head.middle is not None and not random.head.middle.layers[0].weight.equal(middle.layers[0].weight)
    encoders, wrong, _ = made(space="byol")
    with pytest.raises(UserError, match="begins without a head 'byol'"):
        wrong.before_epoch(encoders, epoch())


def test_the_space_is_the_classifier() -> None:
    _, objective, _ = made()
    (head,) = objective.spaces().values()
    assert head is objective.head
    x = torch.rand(4, 6)
    head.eval()
    torch.testing.assert_close(head(Features(x)), F.normalize(objective.head.scores(x), dim=1))
    again = Classes(**objective.head.config())
    again.load_state_dict(objective.head.state_dict())
    torch.testing.assert_close(again.eval().scores(x), objective.head.scores(x))


def test_the_papers_numbers() -> None:
    options = defaults(Finetune)
    assert (options["fraction"], options["space"], options["classes"]) == (0.01, "simclr_middle", 1000)
    assert Finetune({"image": Tiny()}, classes=4).head.middle is not None
    assert Finetune({"image": Tiny()}, classes=4).head.linear.weight.shape == (4, 6)
    steps = method.view({"image": Tiny().preprocess}).steps["image"]
    assert [type(step) for step in steps[0]] == [Crop, Flip]
