"""Linear classifiers fitted to fixed features. Gradients are written out, so that no graph is held for many rows.

Weights (..., D + 1, C) hold the bias in their last row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from mmssl.optim.schedule import warmup_cosine

HELD = 2**25  # scores held at a time


class Solver(Protocol):
    """Fits a classifier for each of several settings: x (N, D), y (N,) -> (settings, D + 1, C)."""

    settings: tuple[float, ...]

    def fit(self, x: Tensor, y: Tensor, classes: int, settings: Sequence[float]) -> Tensor: ...


class LBFGS:
    """Multinomial logistic regression to convergence; the settings are decays of the squared weights."""

    def __init__(self, decays: Sequence[float]) -> None:
        self.settings = tuple(sorted(decays, reverse=True))  # each starts where the stronger one ended

    def fit(self, x: Tensor, y: Tensor, classes: int, settings: Sequence[float]) -> Tensor:
        found: list[Tensor] = []
        for decay in settings:
            found.append(logistic(x, y, classes, decay=decay, start=found[-1] if found else None))
        return torch.stack(found)


class SGD:
    """Momentum of 0.9 and a rate that falls along a cosine; the settings are rates, all of them fitted at once."""

    def __init__(self, rates: Sequence[float], *, epochs: int, batch: int) -> None:
        self.settings, self.epochs, self.batch = tuple(sorted(rates)), epochs, batch

    def fit(self, x: Tensor, y: Tensor, classes: int, settings: Sequence[float]) -> Tensor:
        weight = x.new_zeros(len(settings), x.shape[1] + 1, classes)
        speed, rates = torch.zeros_like(weight), torch.tensor(settings, device=x.device)[:, None, None]
        batch = min(self.batch, len(x))
        steps, generator = len(x) // batch, torch.Generator().manual_seed(0)
        for epoch in range(self.epochs):
            order = torch.randperm(len(x), generator=generator).to(x.device)
            for step, rows in enumerate(order[: steps * batch].split(batch)):
                part = with_bias(x[rows]).expand(len(settings), -1, -1)  # (R, B, D + 1)
                off = (part @ weight).softmax(dim=2)
                off[:, torch.arange(batch), y[rows]] -= 1
                speed = 0.9 * speed + (off.mT @ part).mT / batch
                factor = warmup_cosine(epoch * steps + step, steps=self.epochs * steps, warmup=0)
                weight = weight - factor * rates * speed
        return weight


def with_bias(x: Tensor) -> Tensor:
    """Appends a column of ones to rows (..., D)."""
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


def logistic(
    x: Tensor, y: Tensor, classes: int, *, decay: float, start: Tensor | None = None, iterations: int = 100
) -> Tensor:
    """Returns the weights (D + 1, C) that minimise mean cross-entropy + decay * the sum of squares without the bias.

    y: classes (N,), or each row's distribution over them (N, C).
    """

    def loss(weight: Tensor) -> tuple[Tensor, Tensor]:
        total, grad = x.new_zeros(()), torch.zeros_like(weight)
        for part, wanted in zip(x.split(rows), y.split(rows), strict=True):
            log_p = (part @ weight[:-1] + weight[-1]).log_softmax(dim=1)
            truth = wanted if wanted.ndim == 2 else torch.nn.functional.one_hot(wanted, classes).to(x.dtype)
            total = total - (truth * log_p).sum()
            off = log_p.exp() * truth.sum(dim=1, keepdim=True) - truth
            grad[:-1] += (off.T @ part).T  # several times as fast as part.T @ off
            grad[-1] += off.sum(dim=0)
        grad /= len(x)
        grad[:-1] += 2 * decay * weight[:-1]
        return total / len(x) + decay * weight[:-1].square().sum(), grad

    rows = max(1, HELD // classes)
    return minimise(loss, x.new_zeros(x.shape[1] + 1, classes) if start is None else start, iterations=iterations)


def squared_hinge(x: Tensor, y: Tensor, classes: int, *, cost: float, positive: float = 2.0) -> Tensor:
    """Returns the weights (P, D + 1, C) of linear SVMs, one class against the rest, for each of P sets of rows.

    x (P, N, D), y (P, N). Each minimises |w|^2 / 2 + cost * the sum of max(0, 1 - sign score)^2, where rows of the
    class itself weigh `positive`; the bias is a weight like the others, as in LIBLINEAR (Fan et al., JMLR 2008).
    """
    rows = with_bias(x)  # (P, N, D + 1)
    wide = rows.shape[2] > rows.shape[1]
    if wide:  # the weights lie in the span of the rows, whose number is all that counts
        basis, inside = torch.linalg.qr(rows.mT)
        rows = inside.mT
    sign = torch.nn.functional.one_hot(y, classes).to(x.dtype) * 2 - 1  # (P, N, C)
    weigh = cost * torch.where(sign > 0, positive, 1.0)

    def loss(weight: Tensor) -> tuple[Tensor, Tensor]:
        short = (1 - sign * (rows @ weight)).clamp(min=0)
        value = weight.square().sum() / 2 + (weigh * short.square()).sum()
        return value / len(x), (weight - 2 * ((weigh * sign * short).mT @ rows).mT) / len(x)

    weight = minimise(loss, x.new_zeros(len(x), rows.shape[2], classes), iterations=100)
    return basis @ weight if wide else weight


def minimise(loss: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, *, iterations: int) -> Tensor:
    """Returns where a smooth loss, given with its gradient, is least, by LBFGS from a start."""
    weight = start.detach().clone()
    optimizer = torch.optim.LBFGS(
        [weight],
        max_iter=iterations,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-8,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        value, weight.grad = loss(weight)
        return value

    with torch.no_grad():
        optimizer.step(closure)
    weight.grad = None
    return weight
