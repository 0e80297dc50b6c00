"""Shuffle & Learn: which frames are shown, and the answer against the paper's network written out."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.methods.shuffle_and_learn import OrderVerification, ShuffleAndLearn, method
from mmssl.transforms.ordered import OrderedFrames
from mmssl.types import Batch, Method
from mmssl.views.ordered import ordered

sys.path.insert(0, str(Path(__file__).parent))
from tables import Table, answered, defaults, films, lasting, present, quarters


def through(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Linear layers and ReLU, without dropout."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            x = (layer.weight @ x + layer.bias).clamp(min=0)
    return x


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cells", [None, 2])
@pytest.mark.parametrize("hidden", [(), (7,)])
def test_the_answer_is_of_three_frames_side_by_side(tied: bool, cells: int | None, hidden: tuple[int, ...]) -> None:
    encoders: dict[str, Any] = {"video": Table("video", 3, grid=(1, 4, 4))}
    made = ShuffleAndLearn(encoders, widths=(5, 6), hidden=hidden, dropout=0.3, cells=cells, tied=tied)
    assert [type(layer) for layer in made.frame] == [nn.Linear, nn.ReLU, nn.Dropout] * 2
    assert [type(layer) for layer in made.all] == [nn.Linear, nn.ReLU, nn.Dropout] * len(hidden)
    assert {layer.p for layer in made.modules() if isinstance(layer, nn.Dropout)} == {0.3}
    made.eval()
    shown = [[0, 1, 2], [4, 5, 6], [8, 9, 10], [12, 13, 14]]
    target, have = torch.tensor([1, 0, 0, 1]), present(1, 0, 1, 1)

    def scores(rows: list[int]) -> Tensor:
        found = [encoders["video"].pooled[row] if cells is None else quarters(encoders["video"], row) for row in rows]
        a, b, c = (through(made.frame, x) for x in found)
        if tied:
            ab, bc, ac = (
                through(made.all, torch.cat([(x + y) / 2, (x - y).abs()])) for x, y in ((a, b), (b, c), (a, c))
            )
            joint = torch.cat([ab + bc, ac])
        else:
            joint = through(made.all, torch.cat([a, b, c]))
        return made.answer.weight @ joint + made.answer.bias

    views = [films(*shown), films(*shown[::-1])]  # the second is not looked at
    found = made(encoders, Batch({"video": views}, target, {"video_present": have}))
    answered(found, torch.stack([scores(rows) for rows in shown]), target, have, [*encoders.values(), made])
    assert made.uses == ("video",) and made.answer.out_features == 2


def draw(task: OrderVerification, number: int) -> tuple[Counter[Any], Counter[Any], list[Any]]:
    """How often frames are shown in order, and in a wrong one, by which of a, b, c, d, e they are; and their times."""
    right, wrong, times = Counter[Any](), Counter[Any](), []
    for _ in range(number):
        made = task.ask()
        (order,) = made.views
        assert made.order.tolist() == [[sorted(order).index(moment) for moment in order]]
        (right if made.target == 1 else wrong)[tuple(order)] += 1
        times.append(made.offsets)
    return right, wrong, times


@pytest.mark.parametrize(
    ("fixed_ends", "orders"),
    [(True, {(1, 0, 3), (1, 4, 3), (3, 0, 1), (3, 4, 1)}), (False, {(2, 1, 3), (1, 3, 2), (3, 1, 2), (2, 3, 1)})],
)
def test_frames_in_order_and_in_each_wrong_one(fixed_ends: bool, orders: set[tuple[int, ...]]) -> None:
    task = lasting(OrderVerification(positives=0.6, fixed_ends=fixed_ends), outside=[2, 4] * 600, span=7)
    right, wrong, asked = draw(task, 600)
    assert set(right) == {(1, 2, 3), (3, 2, 1)} and 0.54 < right.total() / 600 < 0.66
    assert all(0.4 < count / right.total() < 0.6 for count in right.values())
    assert set(wrong) == orders and all(0.15 < count / wrong.total() < 0.35 for count in wrong.values())
    middles = Counter(c for _, _, c, _, _ in asked)
    assert {(a, b, d, e) for a, b, _, d, e in asked} == {(0, 2, 9, 13)}
    assert set(middles) == {3, 4, 5, 6, 7, 8} and max(middles.values()) < 150, "about 100 each"


def test_without_random_times_c_is_in_the_middle_and_always_between() -> None:
    _, _, asked = draw(lasting(OrderVerification(random_times=False), outside=1, span=[9, 1]), 2)
    assert asked == [[0, 1, 5, 10, 11], [0, 1, 2, 3, 4]]


def test_nearness_says_yes_where_the_ends_lie_furthest_apart() -> None:
    places = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 3.0], [0.0, 3.0, 2.0], [1.0, 1.0, 1.0]])
    places = torch.stack([places, places.flip(1).roll(1, 1)], dim=1)  # a second view, which is not asked about
    distances = (places[..., :, None] - places[..., None, :]).abs()
    assert OrderVerification().by_nearness(distances).tolist() == [1, 0, 0, 1]


def test_defaults() -> None:
    """Misra et al., ECCV 2016: crops of 227, fc6 and fc7 of 4096, dropout a half, a quarter in order."""
    assert method == Method(ordered(OrderVerification()), ShuffleAndLearn)
    assert defaults(ShuffleAndLearn) == {
        "widths": (4096, 4096), "hidden": (), "dropout": 0.5, "cells": None, "tied": False
    }  # fmt: skip
    assert defaults(OrderVerification) == defaults(OrderedFrames) | {
        "positives": 0.25, "span": (0.6, 2.4), "outside": (0.6, 1.2), "fixed_ends": True, "search": 10.0, "crop": 227
    }  # fmt: skip
    assert OrderVerification.guards == {**OrderedFrames.guards, "fixed_ends": {"fixed_ends": False}}
    assert OrderVerification().shape == (1, 3)
    assert [OrderVerification(positives=p).chance for p in (0.3, 0.8)] == pytest.approx([0.7, 0.8])


@pytest.mark.parametrize("name", ["span", "outside"])
def test_times_ascend_from_nothing_on(name: str) -> None:
    assert getattr(OrderVerification(**{name: (0.0, 0.0)}), name) == (0.0, 0.0)
    for wrong in ((-0.1, 0.3), (0.3, 0.2)):
        with pytest.raises(UserError, match=f"{name} is"):
            OrderVerification(**{name: wrong})


def test_both_answers_must_occur() -> None:
    for right in (0.01, 0.99):
        method.view.changed({"video": {"order_verification": {"positives": right}}})  # type: ignore[attr-defined]
    for wrong in (0.0, 1.0):
        with pytest.raises(UserError, match="positives is .*; expected float above 0 and below 1"):
            method.view.changed({"video": {"order_verification": {"positives": wrong}}})  # type: ignore[attr-defined]
