"""Figures with their interval: against exact percentiles of the binomial, for one draw and for several."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from mmssl.errors import UserError
from mmssl.evals.parts.score import bootstrap, named, parted, rising

SEEDS = range(3)  # the ends of an interval over 1,000 resamples jitter; their mean does so less


def ends(values: Tensor) -> tuple[float, float]:
    found = [bootstrap(values, chance=0.0, seed=seed) for seed in SEEDS]
    return float(np.mean([s.low for s in found])), float(np.mean([s.high for s in found]))


def binomial(right: int, count: int) -> tuple[Any, Any]:
    """The exact percentiles; the figures lie on a grid of 1 / count, where ends may fall on either side."""
    low, high = binom.ppf([0.025, 0.975], count, right / count) / count
    return pytest.approx(low, abs=1.5 / count), pytest.approx(high, abs=1.5 / count)


@pytest.mark.parametrize(("right", "count"), [(120, 400), (900, 1000)])
def test_the_interval_is_that_of_the_binomial(right: int, count: int) -> None:
    assert ends(torch.arange(count) < right) == binomial(right, count)


def test_of_draws_that_all_agree_only_samples_count_and_the_other_way_round() -> None:
    assert ends((torch.arange(400) < 120).expand(7, 400)) == binomial(120, 400)
    assert ends((torch.arange(400) < 120)[:, None].expand(400, 9)) == binomial(120, 400)


def test_draws_and_samples_are_resampled_together() -> None:
    generator = np.random.default_rng(0)
    values = generator.random((6, 30)) < generator.random((6, 1)) * generator.random((1, 30))
    means = [values[generator.integers(6, size=6)][:, generator.integers(30, size=30)].mean() for _ in range(8000)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert ends(torch.from_numpy(values)) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))
    found = bootstrap(torch.from_numpy(values), chance=0.2, trivial=0.4)
    assert (found.value, found.chance, found.n, found.trivial) == (pytest.approx(values.mean()), 0.2, 30, 0.4)
    assert bootstrap(torch.from_numpy(values), chance=0.2, trivial=0.4, seed=0) == found
    with pytest.raises(AssertionError):
        bootstrap(torch.zeros(2, 3), chance=0.0, statistic=lambda x: x.mean(dim=-1))


def test_a_statistic_takes_the_place_of_the_mean() -> None:
    values = torch.tensor([0.0, 0, 0, 1, 5, 9, 9])
    found = bootstrap(values, chance=0.5, trivial=0.25, statistic=lambda x: x.max(dim=-1).values)
    assert (found.value, found.chance, found.n, found.trivial) == (9.0, 0.5, 7, 0.25)
    assert 1.0 <= found.low < found.high == 9.0
    assert found == bootstrap(values, chance=0.5, trivial=0.25, statistic=lambda x: x.amax(-1), seed=0)
    assert bootstrap(values, chance=0.5).value == float(bootstrap(values, chance=0.5)) == pytest.approx(24 / 7)
    assert bootstrap(values, chance=0.5).trivial is None
    assert bootstrap(values, chance=0.5).low != bootstrap(values, chance=0.5, seed=1).low


@pytest.mark.parametrize("count", [10, 5000, 4_000_001])
def test_a_thousand_resamples_are_drawn_in_bounded_memory(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, ...]] = []

    def small(high: int, shape: tuple[int, ...], **_: object) -> Tensor:
        drawn.append(shape)
        return torch.zeros(shape[0], 1, dtype=torch.long)

    monkeypatch.setattr(torch, "randint", small)
    bootstrap(torch.zeros(count), chance=0.0)
    assert sum(rows for rows, _ in drawn) == 1000 and {columns for _, columns in drawn} == {count}
    assert all(rows * columns <= 4_000_000 or rows == 1 for rows, columns in drawn)
    assert len(drawn) == (math.ceil(1000 * count / 4_000_000) if count < 4_000_000 else 1000)


def test_of_nothing_there_is_no_figure() -> None:
    found = bootstrap(torch.zeros(0), chance=0.5, trivial=0.1)
    assert all(math.isnan(value) for value in (found.value, found.low, found.high))
    assert (found.chance, found.n, found.trivial) == (0.5, 0, 0.1)


def test_keys_that_several_shards_have_are_told_apart() -> None:
    assert named(["a", "b", "a", "a"], [0.5, 1, 0, 0.25]) == {"a": 0.5, "b": 1, "a (2)": 0, "a (3)": 0.25}
    assert named(["a (2)", "a", "a"], [0.5, 1, 0]) == {"a (2)": 0.5, "a": 1, "a (3)": 0}
    with pytest.raises(ValueError, match="shorter"):
        named(["a", "b"], [0.5])


def test_values_are_parted_at_edges_and_empty_bins_are_left_out() -> None:
    values = torch.tensor([0.0, 4.9, 5.0, 30.0, 99.0, 12.0])
    found = {span: rows.tolist() for span, rows in parted(values, (5, 7.5, 10, 30))}
    assert found == {"0-5": [0, 1], "5-7.5": [2], "10-30": [5], "30-": [3, 4]}
    assert not list(parted(values, ()))


@pytest.mark.parametrize("wrong", [(15, 5), (0, 3), (-1, 3), (4, 4)])
def test_edges_rise_from_above_nothing(wrong: tuple[float, ...]) -> None:
    assert rising("angles", [1, 2.5]) == (1, 2.5)
    with pytest.raises(UserError, match="angles is .* edges above 0 that rise"):
        rising("angles", wrong)
