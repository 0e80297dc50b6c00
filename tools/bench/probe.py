"""Measures the linear probe's logistic regression beside scikit-learn's, both with their own tolerance.

python tools/bench/probe.py [FEATURES.npz], on one core; needs scikit-learn. FEATURES has x (N, D) and y (N,); without
it 20,000 rows of 384 correlated features are made, of 10 overlapping classes. Each row also says how far both losses
are above the lowest one that is known, that of a much tighter tolerance.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from timing import Row, compare, show
from torch import Tensor

from mmssl.evals.parts.solvers import logistic, penalised_cross_entropy

ROWS, DIM, CLASSES = 20_000, 384, 10
DECAYS = (1e-4, 1e-3, 1e-2)


def made() -> tuple[Tensor, Tensor]:
    """Returns features whose variance falls off as that of networks does, and their classes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (ROWS,), generator=generator)
    latent = torch.randn(CLASSES, DIM, generator=generator)[y] * 0.3 + torch.randn(ROWS, DIM, generator=generator)
    turn = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0]
    return latent * torch.arange(1, DIM + 1) ** -1.0 @ turn, y


def rows(features: str | None = None) -> Iterator[Row]:
    """Yields one fit for each decay beside scikit-learn's."""
    torch.set_num_threads(1)
    x, y = made() if features is None else (torch.from_numpy(np.load(features)[name]) for name in "xy")
    x = (x - x.mean(dim=0)) / x.std(dim=0, correction=0).clamp(min=1e-6)
    classes = int(y.max()) + 1
    for decay in DECAYS:
        theirs = LogisticRegression(C=1 / (2 * decay * len(x)), max_iter=1000)
        row = compare(
            f"linear probe {len(x):,} x {x.shape[1]}, {classes} classes, decay {decay:g}",
            lambda decay=decay: logistic(x, y, classes, decay=decay),
            lambda theirs=theirs: theirs.fit(x.numpy(), y.numpy()),
            against="scikit-learn",
            bound=lambda decay=decay: penalised_cross_entropy(x, y, torch.zeros(x.shape[1] + 1, classes), decay),
            bound_by="one loss and gradient",
            rounds=3,
        )
        least = logistic(x.double(), y, classes, decay=decay, tolerance=1e-12, iterations=1000)
        found = logistic(x, y, classes, decay=decay)
        peer = torch.from_numpy(np.concatenate([theirs.coef_.T, theirs.intercept_[None]]))
        values = [float(penalised_cross_entropy(x.double(), y, w.double(), decay)[0]) for w in (least, found, peer)]
        row["bound"] += f"; losses above the least: {values[1] - values[0]:.1e}, {values[2] - values[0]:.1e}"
        yield row


if __name__ == "__main__":
    show(rows(*sys.argv[1:2]))
