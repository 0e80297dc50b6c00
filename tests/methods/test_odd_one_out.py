"""Odd-one-out: which sequences are shown, and the answer against the paper's network written out."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.methods.odd_one_out import OddOneOut, OddSequence, method
from mmssl.transforms.ordered import OrderedFrames
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Batch, Method
from mmssl.views.ordered import ordered

sys.path.insert(0, str(Path(__file__).parent))
from tables import Table, answered, defaults, films, lasting, present, quarters


@pytest.mark.parametrize("cells", [None, 2])
def test_the_answer_is_what_a_sequence_differs_by_from_the_others(cells: int | None) -> None:
    encoders: dict[str, Any] = {"video": Table("video", 3, grid=(1, 4, 4))}
    made = OddOneOut(encoders, frames=2, widths=(7, 5), dropout=0.3, cells=cells)
    assert [type(layer) for layer in made.sequence] == [nn.Linear, nn.ReLU, nn.Dropout] * 2
    assert made.sequence[2].p == made.sequence[5].p == 0.3
    made.eval()
    views = [[[0, 1], [2, 3], [4, 5], [6, 7]], [[8, 9], [1, 3], [5, 7], [2, 0]], [[9, 1], [7, 4], [3, 8], [0, 6]]]
    target, have = torch.tensor([2, 1, 0, 1]), present(1, 0, 1, 1)

    def encoded(rows: list[int]) -> Tensor:
        found = [encoders["video"].pooled[row] if cells is None else quarters(encoders["video"], row) for row in rows]
        x = torch.cat(found)
        for layer in (made.sequence[0], made.sequence[3]):
            x = (layer.weight @ x + layer.bias).clamp(min=0)
        return x

    def scores(sequences: list[list[int]]) -> Tensor:
        x = [encoded(rows) for rows in sequences]
        sums = [torch.stack([one - other for other in x]).sum(0) for one in x]
        return torch.cat([made.answer.weight @ one + made.answer.bias for one in sums])

    found = made(encoders, Batch({"video": [films(*view) for view in views]}, target, {"video_present": have}))
    expected = torch.stack([scores([view[i] for view in views]) for i in range(4)])
    answered(found, expected, target, have, [*encoders.values(), made])
    assert made.uses == ("video",)


def test_every_sequence_has_its_own_times_and_one_is_out_of_order() -> None:
    task = lasting(OddSequence(sequences=4, frames=3), window=5)
    odd, times, orders, alike = Counter[int](), Counter[int](), Counter[Any](), 0
    for _ in range(300):
        made = task.ask()
        sequences = [list(view) for view in made.views]
        assert list(made.offsets) == [0, 1, 2, 3, 4, 5] and len(sequences) == 4
        assert made.order.tolist() == [[sorted(s).index(t) for t in s] for s in sequences]
        for number, sequence in enumerate(sequences):
            assert len(set(sequence)) == 3
            times.update(sequence)
            rank = tuple(sorted(sequence).index(t) for t in sequence)
            if number == made.target:
                orders[rank] += 1
            else:
                assert rank == (0, 1, 2)
        odd[made.target] += 1
        alike += len({tuple(sorted(sequence)) for sequence in sequences}) == 1
    assert set(odd) == {0, 1, 2, 3} and max(odd.values()) < 105, "about 75 each"
    assert alike < 3, "one in 8000"
    assert set(times) == {0, 1, 2, 3, 4, 5}
    assert set(orders) == {(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1)}, "neither forward nor backward"


def test_a_short_window_still_has_room_for_all_frames() -> None:
    task = lasting(OddSequence(frames=4), window=[1, 3, 4])
    assert [len(task.ask().offsets) for _ in range(3)] == [4, 4, 5]


def test_nearness_says_the_longest_way_for_its_length() -> None:
    """Ways of 10 where 9.5 is the shortest, of 1.2 where 1 is, and no way at all."""
    places = torch.tensor([[[0.0, 9.5, 9.0], [0.0, 1.0, 0.8], [2.0, 2.0, 2.0]]])
    places = torch.cat([places, places[:, [1, 2, 0]]])
    distances = (places[..., :, None] - places[..., None, :]).abs()
    assert OddSequence().by_nearness(distances).tolist() == [1, 0]


def test_defaults_are_the_papers() -> None:
    """Fernando et al., CVPR 2017: six sequences of six frames of 227 pixels, fc6 of 4096, fc7 of 128."""
    assert method == Method(ordered(OddSequence()), OddOneOut)
    assert defaults(OddOneOut) == {"frames": 6, "widths": (4096, 128), "dropout": 0.5, "cells": None}
    assert defaults(OddSequence) == defaults(OrderedFrames) | {"sequences": 6, "frames": 6, "window": (1.0, 2.0)}
    assert defaults(OrderedFrames)["search"] == 5.0 and defaults(OrderedFrames)["crop"] == 227
    made = OddSequence(sequences=4, frames=5)
    assert made.shape == (4, 5) and made.chance == 0.25
    assert ordered(made)({"video": VideoPreprocess(8)}).shows == {"video": 4}


def test_what_has_no_odd_one_is_refused() -> None:
    OddSequence(sequences=2, frames=3, window=(0.0, 0.0))
    for wrong in ({"sequences": 1}, {"frames": 2}):
        with pytest.raises(UserError, match="expected int of at least"):
            method.view.changed({"video": {"odd_sequence": wrong}})  # type: ignore[attr-defined]
    for window in ((-0.1, 0.3), (0.3, 0.2)):
        with pytest.raises(UserError, match="window is"):
            OddSequence(window=window)
