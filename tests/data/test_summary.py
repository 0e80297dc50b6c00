"""What an index says of its build, in words."""

from __future__ import annotations

import pytest

from mmssl.data.summary import account, summary


@pytest.mark.parametrize(("empty", "more"), [(10, ""), (11, " and 1 others"), (1210, " and 1,200 others")])
def test_ten_classes_without_samples_are_named(empty: int, more: str) -> None:
    named = ", ".join(f"c{n}" for n in range(10))
    assert account({"empty_classes": [f"c{n}" for n in range(empty)]}) == [f"no sample of: {named}{more}"]


def test_each_kind_of_thing_has_its_line() -> None:
    index = {
        "samples": 12345,
        "shards": [{"fields": {"jpg": 1000, "txt": 5}}, {"fields": {"jpg": 500}}],
        "classes": ["a"] * 1000,
        "damaged": {"cut": 1234, "lost": 1},
        "examples": {"cut": ["x.jpg", "y.jpg"]},
        "passed_over": {"hidden": 2, ".raw": 3000},
        "empty_classes": ["b"],
    }
    assert summary(index).splitlines() == [
        "12,345 samples in 2 shards (jpg in 1,500, txt in 5)",
        "1,000 classes",
        "left out 1,234: cut (such as x.jpg; y.jpg)",
        "left out 1: lost",
        "passed over: 3,000 .raw, 2 hidden",
        "no sample of: b",
    ]
    assert account({}) == []
