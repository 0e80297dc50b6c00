"""Sources take turns by weight: counts in closed form, evenly spread, the same wherever one begins."""

from __future__ import annotations

from collections import Counter

import pytest

from mmssl.data.turns import ONE, turns


@pytest.mark.parametrize("weights", [[7, 3], [1, 1, 1], [0.5, 0.3, 0.15, 0.05], [1e-3, 1], [5]])
def test_counts_are_those_of_the_single_turns(weights: list[float]) -> None:
    made = turns(weights)
    first = 2_000_000_011  # far into a run
    before, found = made.until(first), Counter[int]()
    for place in range(first, first + 500):
        found[made.source(place)] += 1
        assert made.until(place + 1) == [n + found[s] for s, n in enumerate(before)]


@pytest.mark.parametrize("weights", [[7, 3], [2, 5, 3], [0.5, 0.3, 0.15, 0.05], [0.01, 0.99]])
def test_any_samples_in_a_row_hold_each_source_by_its_weight(weights: list[float]) -> None:
    made, total = turns(weights), sum(weights)
    for start in (0, 17, 123_456):
        for count in (1, 9, 64, 1000, 777_777):
            parts = zip(made.until(start + count), made.until(start), weights, strict=True)
            off = [after - before - count * weight / total for after, before, weight in parts]
            assert abs(off[0]) < 1.001
            assert all(abs(part) < 2.001 for part in off)


def test_a_source_with_all_of_the_weight_takes_every_turn() -> None:
    assert turns([3]).shares == (ONE,)
    assert turns([3]).until(12) == [12]
