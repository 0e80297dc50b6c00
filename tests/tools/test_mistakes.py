"""The mistakes that tools/mutate.py makes, against those of lines read by eye."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from mistakes import Mistakes


def made(source: str) -> set[str]:
    mistakes = Mistakes("a.py", source)
    all_places = [mistake for place in mistakes.places() for mistake in place]
    return {mistakes.apply(mistake).decode() for mistake in all_places if mistakes.changes(mistake)}


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("y = a - b", {"y = (a + b)", "y = (b - a)", "y = a", "y = b"}),
        ("y = a < b", {"y = (a <= b)", "y = (a > b)"}),
        ("y = a and b", {"y = (a or b)", "y = a", "y = b"}),
        ("y = x.mean(-1)", {"y = x.sum(-1)", "y = x.mean(0)", "y = x.mean(-2)"}),
        ("y = x.detach()", {"y = x"}),
        ("f(é, b, k=c)", {"pass", "f(b, é, k=c)", "f(é, b)"}),
        ("a += b", {"pass", "a -= b"}),
        ("y = x[1:]", {"y = x[:]", "y = x[2:]", "y = x[0:]"}),
        ("def f(x: int = 2) -> int: return x", {f"def f(x: int = {n}) -> int: return x" for n in (1, 3)}),
        ("if a:\n    b", {"if not (a):\n    b", "if False:\n    b"}),
        ("raise ValueError(f'{a + 1}')", set()),
        ("zip(a, a, strict=True)", {"pass"}),
    ],
)
def test_what_can_be_wrong(source: str, wrong: set[str]) -> None:
    assert made(source) == wrong
