"""Solvers: each decay and rate to its optimum, in parts or whole; and the choice among them, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from probing import blobs, judged, reference
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor
from torch.nn import functional as F

from mmssl.evals import linear
from mmssl.evals.linear import Linear, best, held_out, probe, ranked, select, tops
from mmssl.evals.parts import solvers
from mmssl.evals.parts.labelled import Embedded
from mmssl.evals.parts.solvers import LBFGS, SGD, logistic, minimise, squared_hinge, with_bias

SETS: dict[str, Any] = {"train": {"shards": "pipe:a"}, "data": {"shards": "pipe:b"}}  # never opened


def penalised(decay: float) -> Any:
    def loss(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return F.cross_entropy(x @ w[:-1] + w[-1], y) + decay * w[:-1].square().sum()

    return loss


@pytest.mark.parametrize("held", [2**25, 7])
def test_logistic_regression_of_soft_labels(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "HELD", held)
    rows = blobs(30, 3, 4, spread=2.0)
    x, y = rows.x.double(), torch.rand(30, 3, generator=torch.Generator().manual_seed(0)).double()
    y /= y.sum(dim=1, keepdim=True)
    expected = reference(x, y, loss=penalised(0.02), shape=(5, 3), steps=5)
    found = logistic(x, y, 3, decay=0.02, iterations=200, tolerance=1e-12)
    torch.testing.assert_close(found[:-1], expected[:-1], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[-1] - found[-1].mean(), expected[-1] - expected[-1].mean(), atol=1e-4, rtol=0)


def test_each_decay_has_its_own_optimum_and_starts_where_the_last_one_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = blobs(30, 3, 4, spread=2.0)
    x, y = rows.x.double(), rows.y
    solver = LBFGS((0.01, 1.0, 0.1))
    assert solver.settings == (1.0, 0.1, 0.01)
    starts: list[Any] = []
    real = solvers.logistic
    monkeypatch.setattr(
        solvers, "logistic", lambda *a, start, **o: (starts.append(start), real(*a, start=start, **o))[1]
    )
    found = solver.fit(x, y, 3, (1.0, 0.1, 0.01))
    assert starts[0] is None and torch.equal(starts[1], found[0]) and torch.equal(starts[2], found[1])
    assert found.shape == (3, 5, 3)
    for weight, decay in zip(found, (1.0, 0.1, 0.01), strict=True):
        loss = penalised(decay)
        expected = reference(x, y, loss=loss, shape=(5, 3), steps=5)
        assert -1e-9 < float(loss(x, y, weight) - loss(x, y, expected)) < 1e-6
    few, labels, loss = x[:3], y[:3], penalised(0.1)  # fewer rows than columns
    expected = reference(few, labels, loss=loss, shape=(5, 3), steps=5)
    assert -1e-9 < loss(few, labels, LBFGS((0.1,)).fit(few, labels, 3, (0.1,))[0]) - loss(few, labels, expected) < 1e-6
    expected, loss = reference(x, y, loss=penalised(0.01), shape=(5, 3), steps=5), penalised(0.01)
    cold, warm = (real(x, y, 3, decay=0.01, start=start, iterations=1) for start in (None, expected))
    assert loss(x, y, warm) - loss(x, y, expected) < 1e-9 < 1e-3 < loss(x, y, cold) - loss(x, y, expected)
    assert torch.equal(torch.ones(2), minimise(lambda w: (w.sum() * 0, w * 0), torch.ones(2), iterations=3))


@pytest.mark.parametrize("decay", [1e-4, 1e-2])
def test_correlated_features_are_fitted_to_within_the_tolerance(decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, in few steps, beside SciPy's solver in float64; one column is there twice, and none has mean 0."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 4
    x = torch.randn(400, 20, generator=generator) + torch.randn(4, 20, generator=generator)[y]
    x = x @ (torch.eye(20) + 3) + 1
    x[:, 1] = x[:, 0]
    x, truth = x / x.std(dim=0), F.one_hot(y, 4).numpy()
    rows = x.double().numpy()

    def loss(flat: Any) -> Any:
        weight = flat.reshape(21, 4)
        log_p = log_softmax(rows @ weight[:-1] + weight[-1], axis=1)
        off = (np.exp(log_p) - truth) / len(rows)
        slope = np.vstack([rows.T @ off + 2 * decay * weight[:-1], off.sum(axis=0)[None]])
        return -(truth * log_p).sum() / len(rows) + decay * (weight[:-1] ** 2).sum(), slope.ravel()

    least = minimize(loss, np.zeros(84), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000}).fun
    calls: list[int] = []
    real = solvers.penalised_cross_entropy
    monkeypatch.setattr(solvers, "penalised_cross_entropy", lambda *given: (calls.append(1), real(*given))[1])
    found = {t: logistic(x, y, 4, decay=decay, tolerance=t).double().numpy() for t in (1e-6, 1e-2)}
    above = {tolerance: loss(weight)[0] - least for tolerance, weight in found.items()}
    assert -1e-7 < above[1e-6] < 2e-6 < above[1e-2] < 2e-2
    assert len(calls) < 40, "without the change of coordinates it takes more than 100"
    twice = logistic(x, y, 4, decay=decay, products=solvers.mean_products(x))
    np.testing.assert_array_equal(twice.double().numpy(), found[1e-6])


def test_mean_products_are_those_of_the_rows_with_a_one() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    expected = torch.tensor([[5.0, -5, 2], [-5, 10, -1], [2, -1, 1]], dtype=torch.double)
    assert torch.equal(solvers.mean_products(rows), expected)


def test_the_weights_of_svms_lie_in_the_span_of_few_rows() -> None:
    """The same optimum, whether there are more columns than rows or as many."""
    rows = blobs(5, 2, 9, spread=1.0)
    x, y = rows.x.double()[None], rows.y[None]

    def loss(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        total = w.square().sum() / 2
        for number in range(2):
            sign = torch.where(y == number, 1.0, -1.0)
            short = (1 - sign * (x @ w[:-1, number] + w[-1, number])).clamp(min=0).square()
            total = total + 0.3 * (torch.where(y == number, 5.0, 1.0) * short).sum()
        return total

    for columns in (9, 4, 3):
        expected = reference(x[0, :, :columns], y[0], loss=loss, shape=(columns + 1, 2), steps=5)
        found = squared_hinge(x[:, :, :columns], y, 2, cost=0.3, positive=5.0)[0]
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    assert torch.equal(squared_hinge(x, y, 2, cost=0.3), squared_hinge(x, y, 2, cost=0.3, positive=2.0))


@pytest.mark.parametrize("batch", [5, 16, 99])
def test_sgd_drops_what_does_not_fill_a_batch(batch: int) -> None:
    rows = blobs(16, 3)
    found = SGD((0.2,), epochs=2, batch=batch).fit(rows.x.double(), rows.y, 3, (0.2,))
    layer = torch.nn.Linear(8, 3, dtype=torch.double)
    for weight in layer.parameters():
        weight.detach().zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.2, momentum=0.9)
    size = min(batch, 16)
    parts, generator = 16 // size, torch.Generator().manual_seed(0)
    for epoch in range(2):
        order = torch.randperm(16, generator=generator)
        for step in range(parts):
            part = order[step * size : (step + 1) * size]
            done = (epoch * parts + step) / (2 * parts)
            optimizer.param_groups[0]["lr"] = 0.1 * (1 + math.cos(math.pi * done))
            optimizer.zero_grad()
            F.cross_entropy(layer(rows.x[part].double()), rows.y[part]).backward()
            optimizer.step()
    torch.testing.assert_close(
        found[0], torch.cat([layer.weight.detach().T, layer.bias.detach()[None]]), atol=1e-6, rtol=0
    )
    assert SGD((0.3, 0.1), epochs=1, batch=1).settings == (0.1, 0.3)


def test_the_bias_is_a_column_of_ones() -> None:
    assert with_bias(torch.tensor([[[2.0, 3.0]]])).tolist() == [[[2, 3, 1]]]


class Weights:
    """A solver whose weights are the settings: (bias towards class 1)."""

    settings = (5.0, -5.0, -6.0)

    def __init__(self) -> None:
        self.fitted: list[tuple[Tensor, Tensor, int, Any]] = []

    def fit(self, x: Tensor, y: Tensor, classes: int, settings: Any) -> Tensor:
        self.fitted.append((x, y, classes, settings))
        weight = torch.zeros(len(settings), x.shape[1] + 1, classes)
        weight[:, -1, 1] = torch.tensor(settings)
        return weight


def test_the_setting_is_best_on_the_held_out_tenth_and_fitted_to_the_rest() -> None:
    solver, x = Weights(), torch.arange(30.0)[:, None]
    held = held_out(30)
    y = torch.ones(30, dtype=torch.long)
    y[held.nonzero()[:2, 0]] = 0  # two of three
    setting, (right, loss) = select(x, y, 2, solver)
    ((fitted_x, fitted_y, classes, settings),) = solver.fitted
    assert torch.equal(fitted_x, x[~held]) and torch.equal(fitted_y, y[~held])
    assert (classes, settings) == (2, solver.settings)
    assert setting == -5.0 and right == pytest.approx(2 / 3)  # as right as -6, and less surely wrong
    assert loss == pytest.approx(-(2 * math.log(1 + math.exp(-5)) + math.log(1 + math.exp(5))) / 3)
    assert select(x[:1], y[:1], 2, solver) == (5.0, (0.0, 0.0))
    assert best((1.0, 2.0, 3.0), [(0.5, -1.0), (0.5, -0.5), (0.4, 0.0)]) == (2.0, (0.5, -0.5))


@pytest.mark.parametrize(("count", "tenth"), [(1, 1), (9, 1), (19, 1), (20, 2), (105, 10)])
def test_a_tenth_is_held_out(count: int, tenth: int) -> None:
    held = held_out(count)
    assert held.dtype == torch.bool and held.shape == (count,) and int(held.sum()) == tenth
    assert torch.equal(held, held_out(count, seed=0))
    if tenth > 5:
        assert not torch.equal(held, held_out(count, seed=1))


def test_features_are_standardised_by_the_training_set_and_fitted_to_all_of_it() -> None:
    solver = Weights()
    known = Embedded(torch.tensor([[1.0, 4], [3, 4], [8, 4]]), torch.tensor([0, 1, 1]))
    asked = Embedded(torch.tensor([[5.0, 4], [7, 9]]), torch.tensor([1, 0]))
    ranks, quality = probe(known, asked, solver, classes=4)
    x = (known.x - torch.tensor([4.0, 4])) / torch.tensor([math.sqrt((9 + 1 + 16) / 3), 1e-6])
    torch.testing.assert_close(solver.fitted[1][0], x)
    assert torch.equal(solver.fitted[1][1], known.y) and [given[2] for given in solver.fitted] == [4, 4]
    assert len(solver.fitted[1][3]) == 1 and len(solver.fitted[0][0]) == 2
    setting = solver.fitted[1][3][0]
    right = int(known.y[held_out(3)][0])
    assert setting == (5.0 if right else -6.0) and quality[0] == 1.0
    assert ranks.tolist() == ([0, 1] if right else [3, 0])
    assert [given[2] for given in (probe(known, asked, solver), solver.fitted)[1]][-1] == 2


def test_a_linear_probe_is_logistic_regression_on_standardised_features() -> None:
    known, asked = blobs(60, 6, spread=3.0), blobs(40, 6, spread=3.0, seed=1)
    known.x *= torch.arange(1.0, 9)
    mean, deviation = known.x.mean(0), known.x.std(0, correction=0)
    x, z = (((rows.x - mean) / deviation).double() for rows in (known, asked))
    weight = reference(x, known.y, loss=penalised(0.05), shape=(9, 6), steps=5)
    scores = z @ weight[:-1] + weight[-1]
    found = judged(Linear(**SETS, decays=(0.05,)), known, asked)
    assert found["top1"].value == pytest.approx(float((scores.argmax(1) == asked.y).float().mean()))
    five = (scores.topk(5).indices == asked.y[:, None]).any(1)
    assert found["top5"].value == pytest.approx(float(five.float().mean()))
    assert (found["top1"].chance, found["top5"].chance) == (pytest.approx(1 / 6), pytest.approx(5 / 6))


def test_the_place_of_the_right_class() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.1, 0.9]] * 6)
    assert ranked(scores, torch.tensor([0, 1, 2, 3, 4, 9])).tolist() == [1, 2, 3, 0, 4, 4]


def test_top_five_where_there_are_more_classes_than_five() -> None:
    ranks = torch.tensor([0, 1, 4, 5, 6, 9])
    assert [name for name, _ in tops(ranks, 5)] == ["top1"]
    found = dict(tops(ranks, 6))
    assert (found["top1"].value, found["top1"].chance) == (pytest.approx(1 / 6), pytest.approx(4 / 36))
    assert (found["top5"].value, found["top5"].chance) == (pytest.approx(3 / 6), pytest.approx(5 * 4 / 36))


def test_the_best_layer_is_the_one_that_is_best_on_the_training_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several layers each is named; the figure is that of the layer of the highest quality, whatever the test."""
    made = {"a": ([0, 0, 0], (0.5, -0.1)), "b": ([0, 7, 7], (0.6, -0.3)), "c": ([0, 0, 7], (0.6, -0.4))}
    order = iter(made.values())

    def probed(known: Embedded, asked: Embedded, solver: Any, *, device: Any) -> Any:
        ranks, quality = next(order)
        return torch.tensor(ranks), quality

    monkeypatch.setattr(linear, "probe", probed)
    found = judged(Linear(**SETS, layers=tuple(made)), blobs(16, 8), blobs(3, 8))
    assert list(found) == ["a/top1", "a/top5", "b/top1", "b/top5", "c/top1", "c/top5", "top1", "top5"]
    assert found["top1"] == found["b/top1"] and found["a/top1"].value == 1.0
    assert found["top1"].value == pytest.approx(1 / 3)
    order = iter([made["c"]])
    assert list(judged(Linear(**SETS, layers=("c",)), blobs(16, 8), blobs(3, 8))) == ["top1", "top5"]
