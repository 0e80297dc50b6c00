"""Temporal order, figure by figure: rows of every round, chains of what is near, ambiguous clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from given import PLAIN, defaults, give, written
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals import order
from mmssl.evals.order import Order, described, nearest_in_time, ordered
from mmssl.evals.parts.trivial import statistics
from mmssl.transforms.ordered import OrderedFrames
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Batch, Encoder, Features, Loss, Objective, Pretext, Trained
from mmssl.views.ordered import ordered as shown_by
from mmssl.views.single import view as single_view


def test_defaults() -> None:
    assert defaults(Order) == {"task": "opn", "rounds": 3, "seed": 0, "batch": 32, **PLAIN}


class Chained(OrderedFrames):
    """Takes the nearest frame of the first for the answer."""

    chance = 0.3
    shape = (1, 4)

    def by_nearness(self, distances: Tensor) -> Tensor:
        return distances[:, 0, 0, 1:].argmin(dim=1)


class Means(Encoder):
    """Features of a frame are its means of red and green."""

    modality = "video"

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.preprocess, self.options = 2, VideoPreprocess(), {}
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Features:
        return Features(x.float().mean((2, 3, 4))[:, :2] * self.weight)


def subject(view: Any = None) -> Trained:
    encoders: dict[str, Encoder] = {"video": Means()}
    return Trained(encoders, {"opn": Pretext(Objective(encoders), view or shown_by(Chained()), {})})


def test_frames_are_described_by_pixels_about_their_mean_and_by_features() -> None:
    views = [torch.rand(2, 3, 4, 5, 6) for _ in range(3)]
    encoder = Means()
    found = described(encoder, Batch({"video": views}))
    assert found["pixels"].shape == (2, 3, 4, 30) and found["features"].shape == (2, 3, 4, 2)
    assert not found["features"].requires_grad
    for b in range(2):
        for v in range(3):
            for t in range(4):
                frame = views[v][b, :, t]
                grey = frame.mean(0).flatten()
                torch.testing.assert_close(found["pixels"][b, v, t], F.normalize(grey - grey.mean(), dim=0))
                means = frame.mean((1, 2))[:2]
                torch.testing.assert_close(found["features"][b, v, t], means / means.norm())


def test_pictures_of_whole_numbers_and_features_of_any_precision_are_described() -> None:
    whole = torch.randint(256, (2, 3, 4, 5, 6), dtype=torch.uint8)
    encoder = Means()
    expected = described(encoder, Batch({"video": [whole.float()]}))
    found = described(encoder.double(), Batch({"video": [whole]}))
    for name, vectors in expected.items():
        torch.testing.assert_close(found[name], vectors)


def test_the_nearest_other_frame_by_loops() -> None:
    draw = np.random.default_rng(0)
    orders = torch.from_numpy(np.stack([[draw.permutation(4) for _ in range(2)] for _ in range(5)]))
    distances = torch.from_numpy(draw.random((5, 2, 4, 4))).float()
    found, chance = nearest_in_time(distances, orders)
    for b in range(5):
        right, guessed = [], []
        for v in range(2):
            for i in range(4):
                others = [j for j in range(4) if j != i]
                nearest = min(others, key=lambda j: float(distances[b, v, i, j]))
                time = orders[b, v].tolist()
                right.append(abs(time[nearest] - time[i]) == 1)
                guessed.append(sum(abs(time[j] - time[i]) == 1 for j in others) / 3)
        assert found[b].item() == pytest.approx(np.mean(right)) and chance[b].item() == pytest.approx(np.mean(guessed))
    later = nearest_in_time(distances[:1, :1], torch.tensor([[[0, 5, 9, 10]]]))
    assert later[1].item() == pytest.approx(2 / 12), "of times that are further apart two are neighbours"


def test_rows_hold_what_was_asked_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    views = [torch.rand(3, 3, 4, 5, 6)]
    orders = torch.tensor([[[0, 1, 2, 3]], [[3, 1, 0, 2]], [[2, 3, 1, 0]]])
    batch = Batch({"video": views}, torch.tensor([0, 1, 2]), {"order": orders})
    turns = [({"sample": torch.tensor([4, 5, 9]), "key": ["d", "e", "i"]}, batch)] * 2
    give(monkeypatch, "mmssl.evals.order", [])
    monkeypatch.setattr(order, "show", lambda *a, **options: told.append((a[1], options)) or iter(turns))
    said = {"correct": torch.tensor([1.0, 0, 1])}
    monkeypatch.setattr(order, "answer", lambda *a: Loss(torch.zeros(()), answers=said))
    trained = subject()
    rows = Order(data={}, rounds=5, seed=7, batch=6)._rows(trained, ordered(trained, "opn"))
    assert told == [("opn", {"seed": 7, "rounds": 5, "batch": 6})]
    assert rows["sample"].tolist() == [4, 4, 5, 5, 9, 9] and rows["target"].tolist() == [0, 0, 1, 1, 2, 2]
    assert rows["correct"].tolist() == [1, 1, 0, 0, 1, 1] and rows["key"] == ["d", "d", "e", "e", "i", "i"]
    torch.testing.assert_close(rows["statistics"][::2], statistics(batch.views)["video"])
    for name, vectors in described(trained.encoders["video"], batch).items():
        far = (vectors[..., None, :] - vectors[:, :, None]).norm(dim=-1)  # (B, 1, T, T)
        nearest = far[:, 0, 0, 1:].argmin(dim=1)
        assert rows[f"by_{name}"][::2].tolist() == (nearest == batch.target).float().tolist()
        found, chance = nearest_in_time(far, orders)
        torch.testing.assert_close(rows[f"near_{name}"][::2], found)
        torch.testing.assert_close(rows["near_chance"][::2], chance)


ROWS: dict[str, Any] = {
    "sample": torch.tensor([1, 1, 2, 3]),
    "key": ["run", "run", "jump", "swim"],
    "target": torch.tensor([0, 1, 0, 1]),
    "statistics": torch.rand(4, 2),
    "correct": torch.tensor([1.0, 0, 1, 1]),
    "by_pixels": torch.tensor([1.0, 0, 0, 1]),
    "by_features": torch.tensor([0.0, 0, 1, 1]),
    "near_features": torch.tensor([0.5, 1, 0, 0.25]),
    "near_pixels": torch.tensor([0.25, 0.5, 1, 0]),
    "near_chance": torch.tensor([0.5, 0.25, 0.5, 0.75]),
}


def judged(monkeypatch: pytest.MonkeyPatch, rows: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}

    def linear(features: Tensor, labels: Tensor, *, groups: Tensor) -> Tensor:
        told.update(features=features, labels=labels, groups=groups)
        return torch.tensor([1.0, 1, 0, 0])

    give(monkeypatch, "mmssl.evals.order", [])
    monkeypatch.setattr(order, "linear_answers", linear)
    monkeypatch.setattr(Order, "_rows", lambda self, trained, view: rows)
    found = written(dict(Order(data={}).run(subject())))
    assert all(told[a] is rows[b] for a, b in (("features", "statistics"), ("labels", "target"), ("groups", "sample")))
    return found


def test_figures_are_by_hand_each_clip_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(monkeypatch, ROWS)
    by_hand = {  # value, chance, trivial, clips
        "accuracy": ((0.5 + 1 + 1) / 3, 0.3, 0.5, 3),
        "chain/pixels": ((0.5 + 0 + 1) / 3, 0.3, 0.5, 3),
        "chain/features": ((0 + 1 + 1) / 3, 0.3, 0.5, 3),
        "nearest": ((0.75 + 0 + 0.25) / 3, 0.5, 1.75 / 4, 3),
        "ambiguous/accuracy": ((0 + 1) / 2, 0.3, (1 + 0) / 2, 2),  # rows 1 and 2, where the chain of pixels is wrong
        "ambiguous/nearest": ((1 + 0) / 2, (0.25 + 0.5) / 2, (0.5 + 1) / 2, 2),
    }
    assert list(found) == list(by_hand)
    for name, expected in by_hand.items():
        score = found[name]
        assert (score.value, score.chance, score.trivial, score.n) == pytest.approx(expected), name
    parts = {
        "accuracy": {"run": 0.5, "jump": 1, "swim": 1},
        "chain/pixels": {"run": 0.5, "jump": 0, "swim": 1},
        "chain/features": {"run": 0, "jump": 1, "swim": 1},
        "nearest": {"run": 0.75, "jump": 0, "swim": 0.25},
        "ambiguous/accuracy": {"run": 0, "jump": 1},
        "ambiguous/nearest": {"run": 1, "jump": 0},
    }
    assert {name: score.parts for name, score in found.items()} == parts
    clear = judged(monkeypatch, {**ROWS, "by_pixels": torch.ones(4)})
    assert list(clear) == list(by_hand)[:4]


def test_it_needs_films_and_a_task_about_order(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "mmssl.evals.order", [{"video": 0}])
    Order(data={}).check(subject())
    with pytest.raises(UserError, match="'opn' is not about the order of frames"):
        Order(data={}).check(subject(single_view))
    give(monkeypatch, "mmssl.evals.order", [{"image": 0}])
    with pytest.raises(UserError, match="has 'video'"):
        Order(data={}).check(subject())
