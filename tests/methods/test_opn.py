"""OPN: the order that is shown and asked, and the answer against the paper's network written out."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.methods.opn import OPN, ORDERS, ShuffledFrames, method
from mmssl.transforms.ordered import OrderedFrames
from mmssl.types import Batch, Method
from mmssl.views.ordered import ordered

sys.path.insert(0, str(Path(__file__).parent))
from tables import Table, answered, defaults, films, lasting, present, quarters


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cells", [None, 2])
def test_the_answer_is_of_all_six_pairs(tied: bool, cells: int | None) -> None:
    encoders: dict[str, Any] = {"video": Table("video", 3, grid=(1, 4, 4))}
    made = OPN(encoders, widths=(5, 6), dropout=0.3, cells=cells, tied=tied)
    assert [type(layer) for layer in (*made.frame, *made.pair)] == [nn.Linear, nn.ReLU, nn.Dropout] * 2
    assert made.frame[2].p == made.pair[2].p == 0.3
    made.eval()
    shown = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    target, have = torch.tensor([3, 11, 0, 7]), present(1, 0, 1, 1)

    def scores(rows: list[int]) -> Tensor:
        found = [encoders["video"].pooled[row] if cells is None else quarters(encoders["video"], row) for row in rows]
        fc6 = [(made.frame[0].weight @ x + made.frame[0].bias).clamp(min=0) for x in found]
        joined = {
            (i, j): torch.cat([(fc6[i] + fc6[j]) / 2, (fc6[i] - fc6[j]).abs()] if tied else [fc6[i], fc6[j]])
            for i, j in combinations(range(4), 2)
        }
        fc7 = {pair: (made.pair[0].weight @ x + made.pair[0].bias).clamp(min=0) for pair, x in joined.items()}
        if not tied:
            return made.answer.weight @ torch.cat(list(fc7.values())) + made.answer.bias
        # which two moments a pair is, in either direction: neighbours at an end, in the middle, one between, both ends
        parts = {(0, 1): 0, (2, 3): 0, (1, 2): 1, (0, 2): 2, (1, 3): 2, (0, 3): 3}
        ways = []
        for way in ORDERS:  # way[t]: where the moment t is shown
            moments = {pair: tuple(sorted(way.index(place) for place in pair)) for pair in fc7}
            terms = [(made.answer.weight @ fc7[pair] + made.answer.bias)[parts[moments[pair]]] for pair in fc7]
            ways.append(torch.stack(terms).sum())
        return torch.stack(ways)

    views = [films(*shown), films(*shown[::-1])]  # the second is not looked at
    found = made(encoders, Batch({"video": views}, target, {"video_present": have}))
    answered(found, torch.stack([scores(rows) for rows in shown]), target, have, [*encoders.values(), made])
    assert made.uses == ("video",)
    assert made.answer.out_features == (4 if tied else 12)
    assert "parts" not in made.state_dict()


def test_tied_answers_follow_the_frames_wherever_they_are_shown() -> None:
    encoders: dict[str, Any] = {"video": Table("video", 3)}
    made = OPN(encoders, widths=(8, 8), tied=True, dropout=0.0)
    shown = [2, 0, 3, 1]

    def losses(frames: list[int], targets: list[int]) -> list[float]:
        each = [made(encoders, Batch({"video": [films(frames)]}, torch.tensor([target]))) for target in targets]
        return [loss.total.item() for loss in each]

    before = losses([0, 1, 2, 3], list(range(12)))
    moved = [tuple(shown.index(place) for place in way) for way in ORDERS]  # where those frames are shown now
    after = losses(shown, [ORDERS.index(min(way, way[::-1])) for way in moved])
    assert before == pytest.approx(after)
    assert len({round(loss, 4) for loss in before}) == 12


def test_ways_to_sort_are_permutations_up_to_their_reverse() -> None:
    assert len(ORDERS) == 12 and all(way[0] < way[-1] for way in ORDERS)
    assert {*ORDERS, *(way[::-1] for way in ORDERS)} == set(permutations(range(4)))


def test_frames_lie_gaps_apart_and_are_shown_in_every_order() -> None:
    task, seen = lasting(ShuffledFrames(), gap=[3, 5, 2] * 480), Counter[Any]()
    for _ in range(480):
        made = task.ask()
        (order,) = made.views
        assert made.offsets == [0, 3, 8, 10] and made.order.tolist() == [order]
        in_time = [order[place] for place in ORDERS[made.target]]
        assert in_time in ([0, 1, 2, 3], [3, 2, 1, 0])
        seen[tuple(order)] += 1
    assert len(seen) == 24 and max(seen.values()) < 45, "about 20 each"


def test_nearness_names_the_shortest_path() -> None:
    times = torch.tensor([[5.0, 1.0, 9.0, 2.0], [3.0, 4.0, 1.0, 8.0]])  # as shown
    times = torch.stack([times, times.flip(0)], dim=1)  # a second view, which is not asked about
    distances = (times[..., :, None] - times[..., None, :]).abs()
    sorted_ = [(1, 3, 0, 2), (2, 0, 1, 3)]  # where the first, the second, ... is shown
    assert ShuffledFrames().by_nearness(distances).tolist() == [ORDERS.index(min(way, way[::-1])) for way in sorted_]


def test_defaults_are_the_papers() -> None:
    """Lee et al., ICCV 2017, sections 3.2 and 4: crops of 80, four frames; fc6 1024, fc7 512, dropout a half."""
    assert method == Method(ordered(ShuffledFrames()), OPN)
    assert defaults(OPN) == {"widths": (1024, 512), "dropout": 0.5, "cells": None, "tied": False}
    assert defaults(ShuffledFrames) == defaults(OrderedFrames) | {"gap": (0.1, 0.3), "crop": 80}
    assert ShuffledFrames().chance == pytest.approx(1 / 12) and ShuffledFrames().shape == (1, 4)


def test_gaps_ascend_from_nothing_on() -> None:
    ShuffledFrames(gap=(0.0, 0.0))
    for wrong in ((-0.1, 0.3), (0.3, 0.2)):
        with pytest.raises(UserError, match="gap is"):
            ShuffledFrames(gap=wrong)
