"""A task is asked its own question: in evaluation mode, of every sample, from seeds that depend on nothing else."""

from __future__ import annotations

import inspect
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from given import Given
from torch import Tensor, nn

from mmssl import dist
from mmssl.data.plan import seed_of
from mmssl.errors import DamagedError, UserError
from mmssl.evals.parts.pretext import answer, gathered, per_group, sample_score, show
from mmssl.evals.parts.report import reporting
from mmssl.types import Batch, Encoder, Features, Loss, Objective, Preprocess, Pretext, Trained, View


class Plain(Encoder):
    modality, dim, preprocess = "plain", 1, Preprocess()

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Features:
        return Features(self.scale * x)


class Asked(Objective):
    """Tells how it was asked."""

    modalities = ("plain",)

    def forward(self, encoders: Any, batch: Batch) -> Loss:
        pooled = encoders["plain"](batch.views["plain"][0]).pooled
        modes = [self.training, encoders["plain"].training, encoders["other"].training]
        answers = {"modes": torch.tensor(modes), "alone": torch.tensor([dist._ALONE.get()])}
        return Loss(pooled.sum(), answers=answers | {"grad": torch.tensor([pooled.requires_grad])})


class Dice(View):
    """Shows a sample's number and what is drawn from the three generators."""

    def __init__(self, preprocess: Any, *, shift: float = 0.0, empty: int = -1) -> None:
        super().__init__(preprocess)
        self.shift, self.empty = shift, empty

    def __call__(self, sample: Any) -> Any:
        if sample["plain"] == self.empty:
            return {"plain": []}
        if sample["plain"] == 3:
            raise DamagedError("the third")
        drawn = [random.random(), np.random.rand(), float(torch.rand(1))]
        return {"plain": [torch.tensor([sample["plain"] + self.shift, *drawn])]}

    def on_device(self, batch: Batch) -> Batch:
        batch.extra["progress"] = torch.tensor([self.progress])
        batch.extra["drawn"] = torch.rand(1)
        return batch


class Numbers(Given):
    """Eight samples; asked for what the view reads."""

    def __init__(self) -> None:
        super().__init__([{"plain": n, "__key__": f"clip {n}"} for n in range(8)])

    def open(self, entry: Any, wanted: Any) -> Any:
        assert wanted == ("plain",)
        return super().open(entry, wanted)


def trained(**options: Any) -> Trained:
    encoders = {"plain": Plain().train(), "other": Plain().train()}
    return Trained(encoders, {"task": Pretext(Asked(encoders).train(), Dice, options)})


def test_it_is_asked_in_evaluation_mode_without_gradients_and_alone() -> None:
    subject = trained()
    loss = answer(subject, "task", Batch({"plain": [torch.ones(3, 1)]}))
    assert loss.answers["modes"].tolist() == [False, False, True]  # the other takes no part
    assert loss.answers["alone"].item() and not loss.answers["grad"].item() and loss.total == 3
    assert subject.encoders["plain"].training and subject.tasks["task"].objective.training and not dist._ALONE.get()
    with pytest.raises(UserError, match="no task 'tusk' to judge; did you mean 'task'"):
        answer(subject, "tusk", Batch({}))


def shown(**options: Any) -> tuple[dict[tuple[int, int], list[float]], list[Any]]:
    """Returns what is shown of each sample in each round, and the batches."""
    with reporting() as report:
        batches = list(show(trained(), "task", Numbers(), **options))  # type: ignore[arg-type]
    assert report.counts()["the third"] == 1
    found: dict[tuple[int, int], list[float]] = {}
    for which, batch in batches:
        assert which["key"] == [f"clip {number}" for number in which["sample"].tolist()]
        for number, row in zip(which["sample"].tolist(), batch.views["plain"][0].tolist(), strict=True):
            found[number, sum(number == other for other, _ in found)] = row
    return found, batches


def test_each_sample_is_shown_so_often_each_time_from_a_seed_of_its_own() -> None:
    found, batches = shown(rounds=2, batch=3, seed=5)
    assert sorted(found) == [(number, round_) for number in (0, 1, 2, 4, 5, 6, 7) for round_ in range(2)]
    assert [which["sample"].tolist() for which, _ in batches] == [[0, 1, 2]] * 2 + [[4, 5]] * 2 + [[6, 7]] * 2
    assert all(which["sample"].dtype == torch.long for which, _ in batches)
    for (number, round_), row in found.items():
        seed = seed_of(5, round_, number)
        random.seed(seed), np.random.seed(seed % 2**32), torch.manual_seed(seed)
        assert row == pytest.approx([number, random.random(), np.random.rand(), float(torch.rand(1))])
    for place, (_, batch) in enumerate(batches):
        torch.manual_seed(seed_of(5, place % 2, "batch", place // 2))
        assert batch.extra["drawn"] == torch.rand(1)
        assert batch.extra["progress"] == 1.0
    whole, _ = shown(rounds=2, batch=32, seed=5)
    assert whole == found, "however batches are cut"
    assert shown()[0] == shown(seed=0, batch=32, rounds=1)[0] and len(shown()[0]) == 7
    assert shown(seed=6)[0] != shown(seed=5)[0]


def test_defaults() -> None:
    options = inspect.signature(show).parameters
    assert [options[name].default for name in ("seed", "batch", "rounds")] == [0, 32, 1]


def test_options_of_the_view_may_be_changed() -> None:
    assert shown(shift=0.5)[0][2, 0][0] == 2.5
    with reporting() as report:
        batches = show(trained(shift=1.0), "task", Numbers(), empty=4)  # type: ignore[arg-type]
        rows = [number for which, _ in batches for number in which["sample"].tolist()]
    assert rows == [0, 1, 2, 5, 6, 7] and report.counts() == {"the third": 1, "a view without plain": 1}


def test_processes_share_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = shown(batch=2, rounds=2)
    monkeypatch.setattr("mmssl.dist.world", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr("mmssl.dist.rank", lambda rank=rank: rank)
        with reporting():
            batches = show(trained(), "task", Numbers(), batch=2, rounds=2)  # type: ignore[arg-type]
            parts.append([(which["sample"].tolist(), batch) for which, batch in batches])
    assert [numbers for numbers, _ in parts[0]] == [[0, 1]] * 2 + [[4, 5]] * 2
    assert [numbers for numbers, _ in parts[1]] == [[2]] * 2 + [[6, 7]] * 2
    for part in parts:
        for place, (numbers, batch) in enumerate(part):
            for number, row in zip(numbers, batch.views["plain"][0].tolist(), strict=True):
                assert row == whole[number, place % 2]


def test_answers_of_all_processes_are_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = [{"sample": torch.tensor([4, 1]), "right": torch.tensor([0.4, 0.1]), "key": ["four", "one"]}]
    theirs = [
        {"sample": torch.tensor([0, 1]), "right": torch.tensor([0.0, 0.15]), "key": ["zero", "one again"]},
        {"sample": torch.tensor([2]), "right": torch.tensor([0.2]), "key": ["two"]},
    ]
    monkeypatch.setattr("mmssl.dist.gather_objects", lambda value: [value, theirs])
    found = gathered(mine)
    assert found["sample"].tolist() == [0, 1, 1, 2, 4]
    assert found["right"].tolist() == pytest.approx([0, 0.1, 0.15, 0.2, 0.4])  # of equals the first comes first
    assert found["key"] == ["zero", "one", "one again", "two", "four"]
    monkeypatch.setattr("mmssl.dist.gather_objects", lambda value: [value])
    with reporting(), pytest.raises(UserError, match="no sample that the task can be asked about"):
        gathered([])


def test_rows_are_averaged_by_group() -> None:
    values, groups = torch.tensor([1, 0, 4, 2, 6]), torch.tensor([7, 3, 7, 9, 3])
    assert per_group(values, groups).tolist() == [3.0, 2.5, 2.0]
    keys = {3: "c", 7: "g", 9: "c", 11: "none of these"}
    found = sample_score(values, groups, keys, chance=0.25, trivial=None)
    assert (found.value, found.chance, found.trivial, found.n) == (2.5, 0.25, None, 3)
    assert found.parts == {"c": 3.0, "g": 2.5, "c (2)": 2.0}
    none = sample_score(values[:0], groups[:0], keys, chance=0.25, trivial=0.5)
    assert math.isnan(none.value) and none.parts == {}
