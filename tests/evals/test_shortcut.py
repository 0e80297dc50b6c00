"""Shortcuts: which questions the linear model is asked, what is left out, and which share it explains."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from given import PLAIN, defaults, give, written
from torch import Tensor, nn

from mmssl import dist
from mmssl.errors import UserError
from mmssl.evals import shortcut
from mmssl.evals.parts import low_level
from mmssl.evals.parts.trivial import statistics
from mmssl.evals.shortcut import Shortcut, explained, labelled, linear_model
from mmssl.objectives.matching import Matching
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Batch, Encoder, Loss, Objective, Pretext, Trained, View


def test_defaults() -> None:
    assert defaults(Shortcut) == {"rounds": 2, "batch": 32, "seed": 0, **PLAIN}


class Quiz(View):
    """Shows a number, louder by `loud`, and asks whether it is odd; `chance` is what it says where `known`."""

    guards: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "hush": {"loud": 1.0},
        "both": {"loud": 2.0, "known": True},
    }

    def __init__(self, preprocess: Any, *, loud: float = 0.0, known: bool = False) -> None:
        super().__init__(preprocess)
        self.reads, self.loud = ("image",), loud
        if known:
            self.chance = 0.25

    def __call__(self, sample: Any) -> Any:
        number = float(sample["image"])
        shown = torch.full((3, 4, 4), number / 100) + self.loud / 1000
        return {"image": [shown + 0 * random.random()], "target": torch.tensor(int(number) % 2)}


class Answers(Objective):
    """Is right about even numbers, was not asked about 5, and remembers its batches."""

    modalities = ("image",)

    def __init__(self, encoders: Any) -> None:
        super().__init__(encoders)
        self.batches: list[Batch] = []

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        self.batches.append(batch)
        assert batch.target is not None
        number = (batch.views["image"][0][:, 0, 0, 0] * 100).round()
        right = (number % 2 == 0).float().masked_fill(number == 5, torch.nan)
        return Loss(right.sum(), answers={"correct": right})


class Plain(nn.Module):
    modality, device, preprocess = "image", torch.device("cpu"), ImagePreprocess(size=4)

    def __init__(self) -> None:
        super().__init__()
        self.spaces: dict[str, Any] = {}


def subject(objective: type[Objective] = Answers) -> Trained:
    encoders: Any = {"image": Plain()}
    return Trained(encoders, {"quiz": Pretext(objective(encoders), Quiz, {})})


def judged(trained: Trained, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    give(monkeypatch, "mmssl.evals.shortcut", [{"image": float(n)} for n in range(7)])
    return written(dict(Shortcut(data={}, task="quiz", **options).run(trained)))


def test_each_guard_is_let_down_and_figures_are_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []

    def linear(features: Tensor, labels: Tensor, *, groups: Tensor) -> Tensor:
        asked.append(features)
        assert labels.tolist() == [int(g) % 2 for g in groups]
        return (groups < 3).float()  # of the six asked about, three

    monkeypatch.setattr(shortcut, "linear_answers", linear)
    trained = subject()
    found = judged(trained, monkeypatch, rounds=3, batch=4)
    settings = ("on", "without_hush", "without_both")
    assert list(found) == [f"{name}/{figure}" for name in settings for figure in ("accuracy", "explained")]
    for name in settings:
        score = found[f"{name}/accuracy"]
        assert isinstance(score.trivial, float), "so that it can be written"
        assert (score.value, score.trivial, score.n) == (pytest.approx(4 / 6), pytest.approx(3 / 6), 6)
    assert found["on/accuracy"].chance != found["on/accuracy"].chance, "nobody knows"
    assert found["without_both/accuracy"].chance == 0.25
    assert found["without_both/explained"].value == pytest.approx((3 / 6 - 0.25) / (4 / 6 - 0.25))
    means = [float(features[:, 0].mean()) for features in asked]
    numbers = (0 + 1 + 2 + 3 + 4 + 6) / 6 / 100
    assert means == pytest.approx([numbers, numbers + 0.001, numbers + 0.002], abs=1e-6)
    objective: Any = trained.tasks["quiz"].objective
    assert [len(b.views["image"][0]) for b in objective.batches[:6]] == [4, 4, 4, 3, 3, 3]
    assert len(asked[0]) == 18, "six samples, three times each"


def test_a_task_without_a_right_answer_has_no_shortcut(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Answers):
        def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
            return Loss(torch.zeros(()))

    with pytest.raises(UserError, match="the task 'quiz' has no right answer to take a shortcut to"):
        judged(subject(Silent), monkeypatch)


def test_an_answer_that_is_no_class_has_its_accuracy_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcut, "labelled", lambda objective, batch: {})
    found = judged(subject(), monkeypatch, rounds=1)
    assert list(found) == ["on/accuracy", "without_hush/accuracy", "without_both/accuracy"]
    assert found["without_both/accuracy"].trivial is None and found["without_both/accuracy"].chance == 0.25


def test_seed_rounds_and_batch_reach_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(
        shortcut, "show", lambda trained, task, source, **options: told.append((task, options)) or iter(())
    )
    monkeypatch.setattr(shortcut, "gathered", lambda found: {"correct": torch.ones(1), "sample": torch.zeros(1)})
    judged(subject(), monkeypatch, seed=7, rounds=5, batch=9)
    options = {"seed": 7, "rounds": 5, "batch": 9}
    assert told == [("quiz", {**options, **down}) for down in ({}, {"loud": 1.0}, {"loud": 2.0, "known": True})]


def test_it_needs_the_task_and_what_its_view_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "mmssl.evals.shortcut", [{"image": 1.0}])
    Shortcut(data={}, task="quiz").check(subject())
    give(monkeypatch, "mmssl.evals.shortcut", [{"audio": 1.0}])
    with pytest.raises(UserError, match="data: no sample of given.tar has 'image'"):
        Shortcut(data={}, task="quiz").check(subject())
    with pytest.raises(UserError, match="no task 'quizz'"):
        Shortcut(data={}, task="quizz").check(subject())


def test_pairs_are_at_chance_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "mmssl.evals.shortcut", [])
    encoders: Any = {"image": Plain(), "audio": Plain()}
    pairs = Trained(encoders, {"quiz": Pretext(Matching(encoders, visual="image"), Quiz, {})})
    assert Shortcut(data={}, task="quiz")._chance(pairs, {}) == 0.5
    assert Shortcut(data={}, task="quiz")._chance(pairs, {"known": True}) == 0.25


def test_a_class_is_one_question() -> None:
    batch = Batch({"image": [torch.rand(3, 3, 4, 4), torch.rand(3, 3, 4, 4)]}, torch.tensor([2, 0, 1]))
    found = labelled(Objective({}), batch)
    torch.testing.assert_close(found["features"][:, 0], statistics(batch.views)["image"])
    assert found["features"].shape[:2] == (3, 1) and found["label"].tolist() == [[2], [0], [1]]


def test_several_modalities_lie_beside_each_other() -> None:
    batch = Batch({"image": [torch.rand(3, 3, 4, 4)], "audio": [torch.rand(3, 80)]}, torch.tensor([2, 0, 1]))
    each = statistics(batch.views)
    expected = torch.cat([each["image"], each["audio"]], dim=1)
    torch.testing.assert_close(labelled(Objective({}), batch)["features"][:, 0], expected)
    batch.target = torch.tensor([[2], [0], [1]])
    torch.testing.assert_close(labelled(Objective({}), batch)["features"][:, 0], expected)


def test_a_class_of_each_view_is_a_question_about_it_alone() -> None:
    views = [torch.rand(3, 3, 4, 4) for _ in range(2)]
    target = torch.tensor([[0, 1], [1, 0], [1, 1]])
    found = labelled(Objective({}), Batch({"image": views}, target))
    assert found["features"].shape[:2] == (3, 2)
    for number, view in enumerate(views):
        torch.testing.assert_close(found["features"][:, number], statistics({"image": [view]})["image"])
    assert torch.equal(found["label"], target)


@pytest.mark.parametrize("target", [None, torch.rand(3), torch.zeros(3, 2, 2, dtype=torch.long)])
def test_other_answers_have_no_questions(target: Tensor | None) -> None:
    assert labelled(Objective({}), Batch({"image": [torch.rand(3, 3, 4, 4)]}, target)) == {}


@pytest.mark.parametrize("kinds", [None, [0, 1, 0, 2, 0], [1, 1, -1, 0, 0]])
def test_a_pair_is_two_questions_with_its_own_sound_and_a_wrong_one(
    kinds: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrong one is that of the next of this process's samples that has both, or the sample's own second one."""
    encoders: Any = {"video": Plain(), "audio": Plain()}
    real = shortcut.next_present
    monkeypatch.setattr(shortcut, "next_present", lambda there: (dist._ALONE.get(), real(there))[dist._ALONE.get()])
    film, first, second = torch.rand(5, 3, 4, 2, 2), torch.randn(5, 60), torch.randn(5, 60)
    present = torch.tensor([True, True, True, True, True])
    extra = {"audio_present": present.clone(), "video_present": present.clone()}
    extra["audio_present"][1] = extra["video_present"][4] = False
    batch = Batch({"video": [film], "audio": [first, second] if kinds else [first]}, None, extra)
    if kinds:
        extra["kind"] = torch.tensor(kinds)
    found = labelled(Matching(encoders, visual="video"), batch)
    assert found["label"].tolist() == [[1, 0]] * 5
    offered = second if kinds else first
    for row, following in ((0, 2), (2, 3), (3, 0)):
        own = kinds is not None and kinds[row] > 0
        wrong = second[row] if own else offered[following]
        for number, sound in enumerate((first[row], wrong)):
            seen, heard = film[row : row + 1], sound[None]
            expected = low_level.pair_features(
                low_level.look(seen), low_level.loudness(heard), low_level.together(seen, heard)
            )
            torch.testing.assert_close(found["features"][row, number], expected[0])


def test_questions_of_a_sample_stay_together_and_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Tensor] = {}

    def linear(features: Tensor, labels: Tensor, *, groups: Tensor) -> Tensor:
        told.update(features=features, labels=labels, groups=groups)
        return torch.tensor([1.0, 0, 1, 1, 0, 0])

    monkeypatch.setattr(shortcut, "linear_answers", linear)
    features, label = torch.rand(3, 2, 4), torch.tensor([[1, 0], [2, 3], [4, 5]])
    found = linear_model({"features": features, "label": label, "sample": torch.tensor([7, 7, 9])})
    assert found.tolist() == [0.5, 1.0, 0.0]
    assert told["groups"].tolist() == [7, 7, 7, 7, 9, 9] and told["labels"].tolist() == [1, 0, 2, 3, 4, 5]
    torch.testing.assert_close(told["features"], features.view(6, 4))


@pytest.mark.parametrize(
    ("right", "linear", "chance", "share"),
    [
        (0.9, 0.7, 0.5, 0.5),
        (0.9, 0.4, 0.5, 0.0),
        (0.7, 0.9, 0.5, 1.0),
        (0.4, 0.7, 0.5, 1.0),
        (0.9, 0.7, 0.25, 0.45 / 0.65),
    ],
)
def test_the_share_explained_by_hand(right: float, linear: float, chance: float, share: float) -> None:
    place = torch.arange(100) / 100
    found = explained((place < right).float(), (place < linear).float(), chance=chance)
    assert found.value == pytest.approx(share) and (found.n, found.chance, found.trivial) == (100, 0.0, None)


def test_both_answers_are_resampled_together() -> None:
    answers = (torch.arange(60) % 4 > 0).float()
    same = explained(answers, answers, chance=0.5)
    assert (same.low, same.value, same.high) == (1.0, 1.0, 1.0)
