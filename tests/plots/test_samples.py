"""Which samples plots show: spread over the set where that is asked, none that is damaged."""

from __future__ import annotations

from typing import Any

import pytest
from given import Given

from mmssl.errors import DamagedError
from mmssl.evals.parts.report import reporting
from mmssl.plots.samples import prepared


@pytest.mark.parametrize(("samples", "count", "world"), [(None, 3, 1), (5, 3, 1), (12, 3, 2), (40, 3, 6)])
def test_samples_are_spread_over_the_set(
    samples: int | None, count: int, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that from twice as many as are needed some may be damaged."""
    numbers = range(samples or 7)
    monkeypatch.setattr(Given, "count", samples)
    source = Given([{"image": n} for n in numbers])
    assert list(prepared(source, ("image",), lambda sample: sample["image"], spread=count)) == [*numbers[::world]]
    assert list(prepared(source, ("image",), lambda sample: sample["image"])) == [*numbers]


def test_damaged_samples_are_left_out() -> None:
    def make(sample: Any) -> int:
        if sample["image"] is None:
            raise DamagedError("none")
        return sample["image"] * 2

    with reporting() as report:
        assert list(prepared(Given([{"image": n} for n in (1, None, 2)]), ("image",), make)) == [2, 4]
    assert report.counts() == {"none": 1}
