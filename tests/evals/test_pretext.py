"""A task on held-out samples: its answers are averaged by sample, what was not asked is left out."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from given import PLAIN, defaults, give, written
from torch import nn

from mmssl.errors import UserError
from mmssl.evals.pretext import PretextTask
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Batch, Encoder, Loss, Objective, Pretext, Trained, View


def test_defaults() -> None:
    assert defaults(PretextTask) == {"rounds": 4, "batch": 32, "seed": 0, **PLAIN}


class Dice(View):
    """Shows a number, and beside it one that is drawn."""

    chance = 0.25

    def __init__(self, preprocess: Any) -> None:
        super().__init__(preprocess)
        self.reads = ("image",)

    def __call__(self, sample: Any) -> Any:
        number = torch.full((3, 4, 4), float(sample["image"]))
        number[1] = random.random()
        return {"image": [number]}


class Says(Objective):
    """Says half of each number, and what was drawn of even ones; it remembers how many it was shown at once."""

    modalities = ("image",)

    def __init__(self, encoders: Any) -> None:
        super().__init__(encoders)
        self.sizes: list[int] = []

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        number, drawn = batch.views["image"][0][:, 0, 0, 0], batch.views["image"][0][:, 1, 0, 0]
        self.sizes.append(len(number))
        return Loss(number.sum(), answers={"correct": number / 2, "drawn": drawn.where(number % 2 == 0, torch.nan)})


class Plain(nn.Module):
    modality, device, preprocess = "image", torch.device("cpu"), ImagePreprocess(size=4)

    def __init__(self) -> None:
        super().__init__()
        self.spaces: dict[str, Any] = {}


def judged(monkeypatch: pytest.MonkeyPatch, objective: type[Objective] = Says, **options: Any) -> tuple[Any, Any]:
    encoders: Any = {"image": Plain()}
    trained = Trained(encoders, {"dice": Pretext(objective(encoders), Dice, {})})
    give(monkeypatch, "mmssl.evals.pretext", [{"image": float(n)} for n in range(5)])
    return written(dict(PretextTask(data={}, task="dice", **options).run(trained))), trained.tasks["dice"].objective


def test_every_answer_is_averaged_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    found, objective = judged(monkeypatch, rounds=3, batch=2)
    assert list(found) == ["correct", "drawn"]
    correct, drawn = found["correct"], found["drawn"]
    assert (correct.value, correct.n, correct.chance) == (pytest.approx(1.0), 5, 0.25)
    assert list(correct.parts.values()) == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert drawn.n == len(drawn.parts) == 3 and drawn.chance != drawn.chance, "nobody knows"
    assert drawn.value == pytest.approx(sum(drawn.parts.values()) / 3)
    assert objective.sizes == [2, 2, 2, 2, 2, 2, 1, 1, 1]


def test_seed_and_rounds_decide_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [judged(monkeypatch, **o)[0]["drawn"].value for o in ({}, {}, {"seed": 1}, {"rounds": 1})]
    assert values[0] == values[1] != values[2] and values[3] != values[0]
    monkeypatch.setattr(PretextTask, "_untrained", lambda _, trained: trained)
    names = [f"{way}{name}" for way in ("random_init/", "") for name in ("correct", "drawn")]
    assert list(judged(monkeypatch, baselines=True)[0]) == names


def test_silent_tasks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Says):
        def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
            return Loss(torch.zeros(()))

    with pytest.raises(UserError, match="the task 'dice' tells no answers of single samples"):
        judged(monkeypatch, Silent)
