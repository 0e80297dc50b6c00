"""The one module that trains: its total, and the names of its parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from linear.model import Fit, Row
from torch import nn

from mmssl import dist
from mmssl.errors import UserError
from mmssl.multitask import MultiTask
from mmssl.types import Batch, Head, Loss


def batch(present: int = 4) -> Batch:
    there = {"progress": torch.zeros(4), "index": torch.arange(4), "row_present": torch.arange(4) < present}
    return Batch({"row": [torch.randn(4, 3).double()]}, extra=there)


def model(**objectives: Any) -> MultiTask:
    encoders = {"row": Row()}
    made = {key: kind(encoders) for key, kind in (objectives or {"fit": Fit, "more": Fit}).items()}
    return MultiTask(encoders, made, dict(zip(made, (0.5, 3.0, 1.0), strict=False)))


def test_the_total_is_weighted_and_each_loss_knows_its_rows() -> None:
    made, shown = model(), {"fit": batch(3), "more": batch(2)}
    total, losses = made(shown)
    expected = {}
    for task, count in (("fit", 3), ("more", 2)):
        x = shown[task].views["row"][0][:count]
        answer = made.objectives[task].head(made.encoders["row"].layer(x))[:, 0]
        expected[task] = ((answer - x.sum(1)) ** 2).mean()
        torch.testing.assert_close(losses[task].total, expected[task])
        assert losses[task].rows == count
    torch.testing.assert_close(total, 0.5 * expected["fit"] + 3.0 * expected["more"])


class Counts(Fit):
    """Takes a mean over 2 and one over 5 rows."""

    def forward(self, encoders: Any, shown: Batch) -> Loss:
        return Loss(dist.mean(torch.ones(2)) + dist.mean(torch.ones(5)))


class Silent(Fit):
    def forward(self, encoders: Any, shown: Batch) -> Loss:
        return Loss(torch.ones(()))


def test_of_several_means_the_largest_number_counts() -> None:
    _, losses = model(a=Counts, b=Silent)({"a": batch(), "b": batch()})
    assert losses["a"].rows == 5 and losses["b"].rows is None


class Own(Head):
    pass


class Teaches(Fit):
    """Has three spaces and an encoder of its own."""

    def __init__(self, encoders: Any) -> None:
        super().__init__(encoders)
        self.heads, self.teacher = nn.ModuleList([Own(), Own()]), Row()

    def spaces(self) -> dict[str, Head]:
        return {"row": self.heads[0], "row/middle": self.heads[1]}  # type: ignore[dict-item]

    def extra_encoders(self) -> dict[str, Any]:
        return {"row_teacher": self.teacher}


def test_heads_and_encoders_are_known_by_name() -> None:
    made = model(teaches=Teaches)
    teaches = made.objectives["teaches"]
    assert made.encoders["row"].spaces == {"teaches": teaches.heads[0], "teaches_middle": teaches.heads[1]}
    assert made.named_encoders == {"row": made.encoders["row"]} and made.named_objectives == {"teaches": teaches}
    assert made.exported == {"row": made.encoders["row"], "row_teacher": teaches.teacher}


def test_no_two_encoders_have_one_name() -> None:
    with pytest.raises(
        UserError,
        match="task 'b' gives an encoder 'row_teacher', but there is one of that name among those of task 'a'; rename",
    ):
        model(a=Teaches, b=Teaches)
    encoders = {"row": Row(), "row_teacher": Row()}
    with pytest.raises(UserError, match="task 'a' gives an encoder 'row_teacher', .* among the run's encoders;"):
        MultiTask(encoders, {"a": Teaches(encoders)}, {"a": 1.0})
