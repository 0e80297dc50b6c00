"""SVMs of every example, where the draw does not matter, against torch's own gradient; and what is drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from probing import Anything, Known, blobs, judged, reference
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals import low_shot_svm
from mmssl.evals.low_shot_svm import LowShotSVM
from mmssl.evals.parts.labelled import Embedded

SETS: dict[str, Any] = {"train": {"shards": "pipe:a"}, "data": {"shards": "pipe:b"}}  # never opened
HELD = torch.tensor([1, 6, 8])


def held(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.bool).index_fill(0, HELD, True)


def hinge(cost: float) -> Any:
    """LIBLINEAR's squared hinge with a bias in the penalty, one class against the rest; Goyal et al. weigh it twice."""

    def loss(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        total = w.square().sum() / 2
        for number in range(w.shape[1]):
            sign = torch.where(y == number, 1.0, -1.0)
            short = (1 - sign * (x @ w[:-1, number] + w[-1, number])).clamp(min=0).square()
            total = total + cost * (torch.where(y == number, 2.0, 1.0) * short).sum()
        return total

    return loss


def test_the_cost_that_is_best_on_the_held_out_tenth_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_shot_svm, "held_out", held)
    known, asked = blobs(15, 3, spread=4.0, seed=29), blobs(60, 3, spread=4.0, seed=1)
    x, z = (F.normalize(rows.x, dim=1).double() for rows in (known, asked))
    rest = (~held(15)).nonzero()[:, 0]  # four of each class, so that all are drawn
    assert torch.bincount(known.y[rest]).tolist() == [4, 4, 4]
    costs = (0.001, 0.1, 100.0)
    on_held, on_test = [], []
    for cost in costs:
        weight = reference(x[rest], known.y[rest], loss=hinge(cost), shape=(9, 3), steps=3)
        answers = [(part @ weight[:-1] + weight[-1]).argmax(1) for part in (x[HELD], z)]
        on_held.append(float((answers[0] == known.y[HELD]).double().mean()))
        on_test.append(float((answers[1] == asked.y).double().mean()))
    assert on_held[1] == max(on_held) and on_test[1] == min(on_test)
    for order in (costs, costs[::-1]):
        expected = max(order, key=lambda cost: on_held[costs.index(cost)])  # the first of equals
        found = judged(LowShotSVM(**SETS, shots=(4,), draws=2, costs=order), known, asked)["4-shot"]
        assert found.value == pytest.approx(on_test[costs.index(expected)])
        assert (found.chance, found.n) == (pytest.approx(1 / 3), 60)


class Drawn(list[tuple[Tensor, Tensor]]):
    """Records what each SVM is fitted to, and answers with the first class."""

    def __call__(self, x: Tensor, y: Tensor, classes: int, *, cost: float) -> Tensor:
        self.append((x, y))
        return torch.eye(x.shape[2] + 1)[:, :classes].flip(0).expand(len(x), -1, -1)


def test_each_draw_has_k_examples_of_every_class_none_of_them_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Drawn()
    monkeypatch.setattr(low_shot_svm, "squared_hinge", seen)
    monkeypatch.setattr(low_shot_svm, "held_out", held)
    known = Embedded(torch.eye(24), torch.arange(24) % 2)
    found = judged(
        LowShotSVM(**SETS, shots=(1, 3, 10, 11), draws=6, costs=(1.0,)),
        known,
        Embedded(torch.eye(24)[:5], known.y[:5]),
    )
    assert list(found) == ["1-shot", "3-shot", "10-shot"]  # of the even class ten are left
    assert [x.shape for x, _ in seen] == [(6, 2 * k, 24) for k in (1, 3, 10)]
    for k, (x, y) in zip((1, 3, 10), seen, strict=True):
        rows = x.argmax(2)
        assert torch.equal(y, rows % 2) and not torch.isin(rows, HELD).any()
        for draw, kinds in zip(rows, y, strict=True):
            assert len(draw.unique()) == 2 * k and torch.bincount(kinds).tolist() == [k, k]
    assert len({tuple(draw.sort().values.tolist()) for draw in seen[1][0].argmax(2)}) > 1
    first = [x.clone() for x, _ in seen]
    seen.clear()
    judged(LowShotSVM(**SETS, shots=(3,), draws=6, costs=(1.0,)), known, known)
    assert torch.equal(seen[0][0], first[1])
    seen.clear()
    judged(LowShotSVM(**SETS, shots=(3,), draws=6, costs=(1.0,), seed=1), known, known)
    assert not torch.equal(seen[0][0], first[1])


def fitted(x: Tensor, y: Tensor, classes: int, *, cost: float) -> Tensor:
    """Three draws: the first answers class 0 throughout, the second class 1, the third by the side."""
    weight = torch.zeros(3, 3, 2)
    weight[0, 2, 0], weight[1, 2, 1] = 1.0, 1.0
    weight[2, 0, 1] = 1.0
    return weight


def test_accuracy_is_averaged_over_draws_and_the_interval_knows_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_shot_svm, "squared_hinge", fitted)
    x, y = torch.tensor([[1.0, 0], [1.0, 0], [-1.0, 0], [1.0, 0]]), torch.tensor([1, 1, 0, 1])
    known = Embedded(torch.cat([x] * 3), torch.cat([y] * 3))
    found = judged(LowShotSVM(**SETS, shots=(1,), draws=3, costs=(1.0,)), known, Embedded(x, y))["1-shot"]
    assert found.value == pytest.approx((1 / 4 + 3 / 4 + 1) / 3)
    assert found.low < 0.45 and found.high == pytest.approx(1.0, abs=0.1) and found.n == 4


def test_the_accuracy_of_each_class_is_averaged_over_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_shot_svm, "squared_hinge", fitted)
    x, y = torch.tensor([[1.0, 0], [-1.0, 0], [1.0, 0], [1.0, 0], [1.0, 0]]), torch.tensor([0, 0, 1, 1, 2])
    known = Embedded(torch.cat([x[:4]] * 3), torch.cat([y[:4]] * 3))
    asked = Embedded(x, y, names={0: "ant", 1: "bee", 2: "yak"})
    found = judged(LowShotSVM(**SETS, shots=(1,), draws=3, costs=(1.0,)), known, asked)["1-shot"]
    assert found.parts == pytest.approx({"ant": (1 + 0 + 1 / 2) / 3, "bee": (0 + 1 + 1) / 3, "yak": 0})


def test_a_class_with_too_few_examples_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_shot_svm, "held_out", held)
    known = Embedded(torch.eye(14), torch.tensor([0] * 10 + [1] * 4))  # one of the first class is a held-out row more
    probe = LowShotSVM(**SETS, shots=(5, 6), draws=1)
    probe.sets = Known(known, known)
    with pytest.raises(UserError, match="takes 5 examples of each class; one class has 4"):
        next(probe.judge(Anything(), ("pooled",)))  # type: ignore[arg-type]
    assert list(judged(LowShotSVM(**SETS, shots=(6, 4), draws=1, costs=(1.0,)), known, known)) == []
    assert list(judged(LowShotSVM(**SETS, shots=(4, 6), draws=1, costs=(1.0,)), known, known)) == ["4-shot"]
