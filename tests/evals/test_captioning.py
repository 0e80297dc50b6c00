"""Captions as they are judged: figures and trivial ones by hand, and which task writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from given import PLAIN, Given, defaults, give, written
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.evals.captioning import Captions, most_frequent, shared_words
from mmssl.evals.parts.cider import CiderD
from mmssl.objectives.captioning import Caption, Captioning
from mmssl.types import Encoder, Preprocess, Pretext, Trained

TEXTS = [["a red ball", "a ball"], "a blue cube", ["a blue ball on a mat", "A ball."], "the cube"]
WRITTEN = ["A red red ball!", "a blue cube", "a mat", "ball"]


class Numbers(Preprocess):
    """Shows a number."""

    modality = "image"

    def __call__(self, raw: Any) -> Tensor:
        return torch.tensor(raw)


class Plain(Encoder):
    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality, self.preprocess, self.weight = modality, Numbers(), nn.Parameter(torch.zeros(1))


class Writer(Captioning):
    """Writes what stands in WRITTEN, and remembers how it was asked."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.uses, self.asked = ("image", "text"), []  # type: ignore[var-annotated]

    def captions(self, encoders: Mapping[str, Encoder], images: Tensor, **how: Any) -> list[Caption]:
        self.asked.append((len(images), how))
        return [Caption(WRITTEN[number], -1.0) for number in images.tolist()]


def trained(**tasks: nn.Module) -> Trained:
    made: Any = {name: Pretext(task, lambda: None, {}) for name, task in tasks.items()}  # type: ignore[arg-type, return-value]
    return Trained({"image": Plain("image"), "text": Plain("text")}, made)


def test_defaults() -> None:
    assert defaults(Captions) == {"task": None, "known": None, "beams": 5, "length": None, "batch": 32, **PLAIN}


def test_figures_and_what_the_most_frequent_caption_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "mmssl.evals.captioning", [{"image": n, "text": text} for n, text in enumerate(TEXTS)])
    writer = Writer()
    found = written(dict(Captions(data={}, beams=3, length=7, batch=3).run(trained(only=writer))))
    assert [asked[0] for asked in writer.asked] == [3, 1]
    assert all(how == {"beams": 3, "length": 7} for _, how in writer.asked)
    words = [[text.lower().strip(".").split() for text in ([t] if isinstance(t, str) else t)] for t in TEXTS]
    said = [["a", "red", "red", "ball"], ["a", "blue", "cube"], ["a", "mat"], ["ball"]]
    cider = CiderD(words)
    each = {
        "cider": [cider(said[n], n) for n in range(4)],
        "words": [6 / 7, 1.0, 4 / 8, 0.0],  # of the references the nearest: a red ball; -; a blue ball on a mat; -
        "exact": [0.0, 1.0, 0.0, 0.0],
    }
    frequent = ["a", "ball"]  # twice, once with a full stop
    trivial = {
        "cider": sum(cider(frequent, n) for n in range(4)) / 4,
        "words": (1.0 + 2 / 5 + 1.0 + 0.0) / 4,
        "exact": 0.5,
    }
    assert list(found) == ["cider", "words", "exact"]
    for name, values in each.items():
        score = found[name]
        assert score.value == pytest.approx(sum(values) / 4) and score.trivial == pytest.approx(trivial[name])
        assert score.parts == pytest.approx({str(n): value for n, value in enumerate(values)})
        assert score.n == 4 and score.chance == 0


def test_the_trivial_caption_may_be_that_of_another_set(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {
        "judged": Given([{"image": 0, "text": TEXTS[0]}, {"image": 1, "text": TEXTS[1]}]),
        "known": Given([{"text": "a blue cube"}]),
    }
    monkeypatch.setattr("mmssl.evals.captioning.open_source", lambda data: sets[data["shards"]])
    judge = Captions(data={"shards": "judged"}, known={"shards": "known"})
    found = dict(judge.run(trained(only=Writer())))
    assert found["exact"].trivial == 0.5 and found["words"].trivial == pytest.approx((2 / 5 + 1) / 2)
    assert sets["known"].asked == [{"text"}]


def test_parts() -> None:
    assert most_frequent([["b"], ["a"], ["a"], ["b"]]) == ["b"]
    assert shared_words(["a", "a", "b"], ["a", "c"]) == pytest.approx(2 / 5) and shared_words([], []) == 0


def test_which_task_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "mmssl.evals.captioning", [{"image": 0, "text": "a"}])
    two = trained(one=Writer(), other=Writer())
    with pytest.raises(UserError, match="several tasks of the run write captions: one, other"):
        Captions(data={}).check(two)
    Captions(data={}, task="other").check(two)
    with pytest.raises(UserError, match="no task 'mine' that writes captions"):
        Captions(data={}, task="mine").check(two)
    with pytest.raises(UserError, match="no task of the run writes captions"):
        Captions(data={}).check(trained(other=nn.Linear(1, 1)))
    with pytest.raises(UserError, match="beams is 0"):
        Captions(data={}, beams=0)
    with pytest.raises(UserError, match="length 0"):
        Captions(data={}, length=0)
