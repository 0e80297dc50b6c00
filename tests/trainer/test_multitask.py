"""The one module that trains: its total, the names of its parts, and what a trial step freezes."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from linear.model import Fit, Row
from torch import nn

from mmssl import dist
from mmssl.errors import UserError
from mmssl.multitask import MultiTask, equal_everywhere, freeze_idle
from mmssl.objectives.bank import Rows
from mmssl.objectives.queue import Queue
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


def test_a_trial_step_freezes_what_no_loss_reaches_and_is_undone(capsys: pytest.CaptureFixture[str]) -> None:
    made = model()
    made.objectives["more"].spare = nn.Parameter(torch.ones(1))
    made.objectives["fit"].fixed = nn.Parameter(torch.ones(1), requires_grad=False)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    random = torch.get_rng_state()
    freeze_idle(made, {"fit": batch(), "more": batch()})
    made(dict.fromkeys(("fit", "more"), batch()))
    assert capsys.readouterr().out.splitlines() == [
        "frozen, since no task's loss reaches them: encoders.row.unused, objectives.more.spare"
    ]
    still = {key for key, p in made.named_parameters() if not p.requires_grad}
    assert still == {"encoders.row.unused", "objectives.more.spare", "objectives.fit.fixed"}
    assert all(p.grad is None for p in made.parameters())
    assert made.encoders["row"].passes == 2, "two tasks since, and the trial's are taken back"
    for key, value in before.items():
        assert key == "encoders.row.passes" or torch.equal(value, made.state_dict()[key])
    assert not torch.equal(random, torch.get_rng_state()), "the batches were drawn"


def test_a_trial_step_draws_nothing_and_is_silent_where_all_learns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, shown = model(), {"fit": batch(), "more": batch()}
    made.encoders["row"].dropout.p = 0.5
    del made.encoders["row"].unused
    random = torch.get_rng_state()
    freeze_idle(made, shown)
    assert torch.equal(random, torch.get_rng_state()) and not capsys.readouterr().out
    made.objectives["fit"].spare = nn.Parameter(torch.ones(1))
    monkeypatch.setattr(dist, "rank", lambda: 1)
    freeze_idle(made, shown)
    assert not made.objectives["fit"].spare.requires_grad and not capsys.readouterr().out, "one process speaks"


def test_what_all_processes_write_alike_is_not_sent() -> None:
    made = nn.Module()
    made.queue, made.norm = Queue(4, 2), nn.BatchNorm1d(2)
    made.inner = nn.Module()
    made.inner.bank = Rows.__new__(Rows)
    nn.Module.__init__(made.inner.bank)
    made.inner.bank.register_buffer("held", torch.zeros(1))
    made.inner.bank.further = nn.BatchNorm1d(2)
    assert equal_everywhere(made) == ["queue.rows", "queue.place", "inner.bank.held"]


@pytest.mark.parametrize("cuda", [False, True])
def test_a_trial_step_puts_back_what_its_device_drew_alone(cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: asked.append(devices) or nullcontext())
    freeze_idle(model(), {"fit": batch()})
    assert asked == [[torch.device("cpu")] if cuda else []], "the model's, and not all that there are"
