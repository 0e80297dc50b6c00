"""Signs of health against formulas written out, and the alarm line by line."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from mmssl.numerics.monitors import Alarm, assignment_entropy, effective_rank, monitors, uniformity

X = np.random.default_rng(0).normal(size=(6, 4))
Y = np.random.default_rng(1).normal(size=(6, 4)) + 1.0


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).sum(1, keepdims=True))


def test_the_figures_of_embeddings() -> None:
    found = monitors({"a": torch.tensor(X), "b": torch.tensor(Y)})
    a, b = unit(X), unit(Y)
    for name, x in (("a", a), ("b", b)):
        assert float(found[f"{name}/std"]) == pytest.approx(x.std(axis=0, ddof=1).mean(), rel=1e-5)
        values = np.linalg.svd(x, compute_uv=False)
        shares = values / values.sum()
        assert float(found[f"{name}/rank"]) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
        apart = [math.exp(-2 * ((x[i] - x[j]) ** 2).sum()) for i in range(6) for j in range(i)]
        assert float(found[f"{name}/uniformity"]) == pytest.approx(math.log(sum(apart) / 15), rel=1e-5)
    assert float(found["a-b/alignment"]) == pytest.approx(((a - b) ** 2).sum(1).mean(), rel=1e-5)
    assert float(found["a-b/gap"]) == pytest.approx(np.sqrt(((a.mean(0) - b.mean(0)) ** 2).sum()), rel=1e-5)
    assert len(found) == 8


def test_what_cannot_be_compared_has_no_figures() -> None:
    x = torch.tensor(X)
    assert set(monitors({"a": x, "b": x[:, :3]})) == {f"{n}/{k}" for n in "ab" for k in ("std", "rank", "uniformity")}
    assert monitors({"a": x[:1], "b": x[:1]}) == {}
    assert len(monitors({"a": x[:2]})) == 3
    one = {
        "a": torch.tensor([True, True, True, False, False, False]),
        "b": torch.tensor([False, False, True, True, True, True]),
    }
    assert not [key for key in monitors({"a": x, "b": x}, one) if key.startswith("a-b")], "one row is no pair"
    two = one | {"b": torch.tensor([False, True, True, False, False, False])}
    assert "a-b/gap" in monitors({"a": x, "b": x}, two)
    assert monitors({"a": x}, {"a": torch.ones(5, dtype=torch.bool), "c": torch.zeros(6, dtype=torch.bool)}).keys() == {
        "a/std",
        "a/rank",
        "a/uniformity",
    }, "rows of another number, or of what is not embedded, say nothing"


def test_figures_cost_no_gradient_and_ranks_of_known_matrices() -> None:
    x = torch.randn(5, 4, requires_grad=True)
    assert not any(value.requires_grad for value in monitors({"a": x, "b": x * 2}).values())
    assert not assignment_entropy(torch.rand(3, 2, requires_grad=True)).requires_grad
    assert float(effective_rank(torch.eye(4))) == pytest.approx(4.0)
    assert float(effective_rank(torch.ones(5, 4))) == pytest.approx(1.0, abs=1e-4)
    assert float(effective_rank(torch.zeros(5, 4))) == pytest.approx(1.0)
    for dtype in (torch.float32, torch.bfloat16):
        assert float(uniformity(torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=dtype))) == pytest.approx(-4.0)
        assert float(effective_rank(torch.eye(3, dtype=dtype))) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("assigned", "entropy"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], 1.0),
        ([[1.0, 0.0], [1.0, 0.0]], 0.0),
        ([[0.5, 0.5], [1.0, 0.0]], (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(2)),
        ([3, 1, 0, 0], (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(4)),
        ([0, 0, 0], 1.0),
        ([5], 0.0),
    ],
)
def test_how_evenly_clusters_are_used(assigned: Any, entropy: float) -> None:
    assert float(assignment_entropy(torch.tensor(assigned))) == pytest.approx(entropy, abs=1e-6)


HEALTHY = {"loss": 1.0, "image/std": 0.25, "image/rank": 8.0, "assignment_entropy": 0.9, "chance_loss": 3.0}
SIZES = {"image": 16}  # 0.25 is spread evenly
SIGNS = [
    (
        {"image/std": 0.0049},
        "nearly the same image embedding (std 4.9e-03, where 2.5e-01 is spread evenly; effective rank 8.0)",
    ),
    ({"image/rank": 1.09}, "effective rank 1.1)"),
    ({"assignment_entropy": 0.049}, "assigned to one cluster (assignment_entropy 0.05 of 1)"),
    ({"loss": 3.059}, "the loss has stayed at 3.00, which is what guessing gives"),
    ({"loss": 2.941}, "the loss has stayed at 3.00"),
]
NO_SIGNS = [
    {},
    {"image/std": 0.0051},
    {"image/rank": 1.11},
    {"assignment_entropy": 0.051},
    {"loss": 3.061},
    {"loss": 2.939},
]


@pytest.mark.parametrize(("changed", "said"), SIGNS)
def test_signs(changed: dict[str, float], said: str) -> None:
    told = Alarm(1).look("task", HEALTHY | changed, SIZES)
    assert told is not None and told.startswith("task: for 1 lines of the log, ") and said in told


@pytest.mark.parametrize("changed", NO_SIGNS)
def test_no_signs(changed: dict[str, float]) -> None:
    assert Alarm(1).look("task", HEALTHY | changed, SIZES) is None


def test_what_is_not_measured_is_no_sign() -> None:
    assert Alarm(1).look("task", {"loss": 1.0}, SIZES) is None
    assert Alarm(1).look("task", {"loss": 1.0, "image/rank": 1.0, "image/std": 0.5}, {"image": 2}) is None
    assert Alarm(1).look("task", {"loss": 1.0, "image/rank": 1.0, "image/std": 0.5}, {"image": 3}) is not None


def test_a_sign_must_stand_in_lines_in_a_row_and_is_told_once_a_run() -> None:
    alarm, bad = Alarm(3), HEALTHY | {"loss": 3.0}
    other = HEALTHY | {"assignment_entropy": 0.0}
    assert [alarm.look("a", line, SIZES) for line in (bad, bad, HEALTHY, bad, bad)] == [None] * 5
    assert [alarm.look("b", line, SIZES) for line in (bad, bad)] == [None] * 2, "each task has lines of its own"
    assert [alarm.look("a", line, SIZES) for line in (other, other)] == [None] * 2, "another sign begins anew"
    assert alarm.look("b", bad, SIZES) is not None
    assert [alarm.look("a", other, SIZES) for _ in range(4)] == [None] * 4
