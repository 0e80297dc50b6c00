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
CACHED = 2**20  # features that a processor reads twice in a row


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
        wide = x.shape[1] > len(x)
        if wide:  # the weights lie in the span of the rows, whose number is all that counts
            basis, inside = torch.linalg.qr(x.mT)
            x = inside.mT
        products = mean_products(x)
        for decay in settings:
            start = found[-1] if found else None
            found.append(logistic(x, y, classes, decay=decay, start=start, products=products))
        weights = torch.stack(found)
        return torch.cat([basis @ weights[:, :-1], weights[:, -1:]], dim=1) if wide else weights


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


def mean_products(x: Tensor) -> Tensor:
    """Returns the mean of the outer products of rows (N, D) and a last one: (D + 1, D + 1), float64 on the CPU."""
    found = torch.zeros(x.shape[1] + 1, x.shape[1] + 1, dtype=torch.double)
    found[:-1, :-1] = (x.T @ x).cpu()
    found[-1, :-1] = found[:-1, -1] = x.sum(dim=0).cpu()
    found[-1, -1] = len(x)
    return found / len(x)


def logistic(
    x: Tensor,
    y: Tensor,
    classes: int,
    *,
    decay: float,
    start: Tensor | None = None,
    iterations: int = 100,
    products: Tensor | None = None,
    tolerance: float = 1e-6,
) -> Tensor:
    """Returns the weights (D + 1, C) that minimise mean cross-entropy + decay * the sum of squares without the bias.

    LBFGS works in coordinates in which the curvature at weights of 0 is that of a ball, so that correlated features
    need a tenth of the steps.

    y: classes (N,), or each row's distribution over them (N, C).
    products: `mean_products` of x, where several calls share them.
    tolerance: how far the loss may be above its minimum, as its gradient in those coordinates tells.
    """
    root = _curvature_root(mean_products(x) if products is None else products, classes, decay, x)
    weight = root.mT @ start if start is not None else x.new_zeros(x.shape[1] + 1, classes)

    def loss(weight: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = penalised_cross_entropy(x, y, torch.linalg.solve_triangular(root.mT, weight, upper=True), decay)
        return value, torch.linalg.solve_triangular(root, grad, upper=False)

    steepest = (2 * tolerance / weight.numel()) ** 0.5  # half the squared length of the gradient is the excess
    found = minimise(loss, weight, iterations=iterations, steepest=steepest)
    return torch.linalg.solve_triangular(root.mT, found, upper=True)


def _curvature_root(products: Tensor, classes: int, decay: float, like: Tensor) -> Tensor:
    """Returns the Cholesky factor (D + 1, D + 1) of the loss's second derivative in a class's weights, at 0."""
    curvature = products / classes
    curvature.diagonal().add_(torch.finfo(like.dtype).eps * curvature.trace())  # columns may be alike
    curvature.diagonal()[:-1].add_(2 * decay)
    return torch.linalg.cholesky(curvature).to(like)


def penalised_cross_entropy(x: Tensor, y: Tensor, weight: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Returns mean cross-entropy + decay * the sum of squares without the bias, and its gradient (D + 1, C)."""
    total, grad = x.new_zeros(()), torch.zeros_like(weight)
    cached = CACHED // x.shape[1] if x.device.type == "cpu" else len(x)
    rows = max(1, min(HELD // weight.shape[1], cached))
    for part, wanted in zip(x.split(rows), y.split(rows), strict=True):
        # classes by rows: a softmax over the first dimension runs at full width
        log_p = (part @ weight[:-1] + weight[-1]).T.contiguous().log_softmax(dim=0)
        if wanted.ndim == 2:
            total = total - (wanted.T * log_p).sum()
            off = log_p.exp() * wanted.sum(dim=1) - wanted.T
        else:
            total = total - log_p.gather(0, wanted[None]).sum()
            off = log_p.exp().scatter_add_(0, wanted[None], -torch.ones_like(log_p[:1]))
        grad[:-1] += (off @ part).T
        grad[-1] += off.sum(dim=1)
    grad /= len(x)
    grad[:-1] += 2 * decay * weight[:-1]
    return total / len(x) + decay * weight[:-1].square().sum(), grad


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


def minimise(
    loss: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, *, iterations: int, steepest: float = 1e-6
) -> Tensor:
    """Returns where a smooth loss, given with its gradient, is least, by LBFGS from a start.

    It ends where no entry of the gradient exceeds `steepest`.
    """
    weight = start.detach().clone(memory_format=torch.contiguous_format)
    optimizer = torch.optim.LBFGS(
        [weight],
        max_iter=iterations,
        history_size=20,
        tolerance_grad=steepest,
        tolerance_change=1e-8,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        value, grad = loss(weight)
        weight.grad = grad.contiguous()
        return value

    with torch.no_grad():
        optimizer.step(closure)
    weight.grad = None
    return weight
