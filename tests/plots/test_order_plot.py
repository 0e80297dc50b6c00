"""Frames as shown, as sorted and in true order: which stands where, and in which colour."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from given import defaults

from mmssl.errors import UserError
from mmssl.plots import order
from mmssl.plots.canvas import tiles
from mmssl.plots.order import BORDER, RIGHT, SIDE, WRONG, plot
from mmssl.types import Batch, Loss, Trained

WHITE = (255, 255, 255)


def test_colours_and_defaults() -> None:
    assert (RIGHT, WRONG, BORDER, SIDE) == ((60, 170, 75), (230, 60, 50), 4, 96)
    assert defaults(plot) == {"task": "opn", "count": 6, "seed": 0}


def film(moments: list[list[int]]) -> torch.Tensor:
    """Frames (V, 3, T, 8, 8) whose colour tells their sequence and the place where they are shown."""
    shown = torch.zeros(len(moments), 3, len(moments[0]), 8, 8, dtype=torch.uint8)
    for v in range(len(moments)):
        for place in range(len(moments[0])):
            shown[v, :, place] = torch.tensor([20 + 50 * place, 10 + 60 * v, 99])[:, None, None]
    return shown


def tile(place: int, border: tuple[int, ...] = WHITE, *, sequence: int = 0) -> np.ndarray:
    framed = np.full((104, 104, 3), border, np.uint8)
    framed[4:100, 4:100] = (20 + 50 * place, 10 + 60 * sequence, 99)
    return framed


def drawn(monkeypatch: pytest.MonkeyPatch, films: list[Any], said: list[int], target: list[int]) -> list[Any]:
    """Draws what a task said about videos, each given by the moments that its sequences show."""
    views = torch.stack([film(moments) for moments in films]).transpose(0, 1)
    batch = Batch({"video": list(views)}, torch.tensor(target), {"order": torch.tensor(films)})
    told: list[Any] = []
    monkeypatch.setattr(order, "ordered", lambda trained, task: told.append(task))
    monkeypatch.setattr(order, "open_source", lambda data: data)
    monkeypatch.setattr(order, "show", lambda *a, **options: told.append((*a[1:], options)) or iter([(None, batch)]))
    answers = {"said": torch.tensor(said).float()}
    monkeypatch.setattr(order, "answer", lambda *a: Loss(torch.zeros(()), answers=answers))
    found = list(plot(Trained({}), data={"shards": "x"}, task="mine", count=2, seed=5))
    assert told == ["mine", ("mine", {"shards": "x"}, {"seed": 5, "batch": 2})]
    assert [name for name, _ in found] == [f"order-{n:02d}" for n in range(len(films))]
    return [np.asarray(image) for _, image in found]


def same(found: Any, rows: Any, titles: Any) -> bool:
    whole = np.asarray(tiles(rows, titles=titles))
    return found.shape == whole.shape and bool((found == whole).all())


WAYS = [  # the first frame before the last, in lexicographic order
    *[(0, 1, 2, 3), (0, 1, 3, 2), (0, 2, 1, 3), (0, 2, 3, 1), (0, 3, 1, 2), (0, 3, 2, 1)],
    *[(1, 0, 2, 3), (1, 0, 3, 2), (1, 2, 0, 3), (1, 3, 0, 2), (2, 0, 1, 3), (2, 1, 0, 3)],
]


@pytest.mark.parametrize(
    ("said", "guess"),
    [
        (9, [1, 3, 0, 2]),  # the truth
        (10, [3, 1, 0, 2]),  # read backwards two are right, forwards none
        (6, [1, 0, 2, 3]),
        (0, [0, 1, 2, 3]),  # none either way: forwards
    ],
)
def test_frames_are_sorted_as_was_said(said: int, guess: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert guess in (list(WAYS[said]), list(WAYS[said][::-1]))
    truth = [1, 3, 0, 2]  # moment 2 is shown first, then 0, 3 and 1
    rows = [
        [tile(place) for place in range(4)],
        [tile(p, RIGHT if p == q else WRONG) for p, q in zip(guess, truth, strict=True)],
        [tile(place) for place in truth],
    ]
    titles = [
        [f"shown {n}" for n in (1, 2, 3, 4)],
        [f"sorted: {place + 1}" for place in guess],
        ["true: 2", "true: 4", "true: 1", "true: 3"],
    ]
    first, second = drawn(monkeypatch, [[[2, 0, 3, 1]], [[0, 1, 2, 3]]], [said, 0], [9, 0])
    assert same(first, rows, titles)
    assert (second[4 + 16 + 104 + 20 + 2, 6] == RIGHT).all(), "each video has its own answer"


@pytest.mark.parametrize(("said", "target"), [(1, 1), (0, 1), (0, 0), (1, 0)])
def test_a_sequence_of_three_is_judged_yes_or_no(said: int, target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = drawn(monkeypatch, [[[1, 0, 2]]], [said], [target])
    rows = [[tile(place, RIGHT if said == target else WRONG) for place in range(3)]]
    titles = [["moment 2: said " + ("no", "yes")[said], "moment 1", "moment 3"]]
    assert same(found, rows, titles)


@pytest.mark.parametrize(("count", "said", "target"), [(3, 0, 2), (3, 2, 2), (2, 1, 0)])
def test_the_odd_one_of_several_is_marked(count: int, said: int, target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [[0, 1, 2, 3], [4, 5, 6, 7], [3, 1, 2, 0]][:count]
    (found,) = drawn(monkeypatch, [moments], [said], [target])
    rows, titles = [], []
    for v, several in enumerate(moments):
        border = RIGHT if v == target else WRONG if v == said else WHITE
        rows.append([tile(place, border, sequence=v) for place in range(4)])
        titles.append([f"moment {m + 1}" for m in several])
    titles[said][0] += ": said odd"
    assert same(found, rows, titles)


def test_nothing_to_draw_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "ordered", lambda trained, task: None)
    monkeypatch.setattr(order, "open_source", lambda data: data)
    monkeypatch.setattr(order, "show", lambda *a, **o: iter(()))
    with pytest.raises(UserError, match="no clip that the task can be asked about"):
        list(plot(Trained({}), data={}))
