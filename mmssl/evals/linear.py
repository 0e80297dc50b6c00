"""Linear probing: what class does a linear classifier on frozen features tell?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.evals.parts.classes import chance
from mmssl.evals.parts.labelled import Embedded, Probe
from mmssl.evals.parts.score import bootstrap
from mmssl.evals.parts.solvers import LBFGS, SGD, Solver, with_bias
from mmssl.types import Encoder, Score

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(kw_only=True, eq=False)
class Linear(Probe):
    """Top-1 and top-5 accuracy of a linear classifier on features that are embedded once and standardised.

    Layer and setting are those with which the classifier fitted to the rest is best on a tenth of the training set;
    it is then fitted to all of it. The other options are those of every Probe.
    Protocol of the setting: Radford et al., ICML 2021; many rates at once: Caron et al., ICCV 2021.

    layers: names of submodules, whose output is averaged over its grid, "pooled" or spaces; each is judged by itself
        as well.
    solver: lbfgs is logistic regression, whose settings are `decays`; sgd has `rates`, `epochs` and `batch`.
    decays: weights of the squared norm that lbfgs tries.
    rates: learning rates that sgd tries.
    epochs: of sgd.
    batch: samples of a step of sgd.
    """

    layers: tuple[str, ...] = ()
    solver: Literal["lbfgs", "sgd"] = "lbfgs"
    decays: tuple[float, ...] = DECAYS
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3)
    epochs: int = 30
    batch: int = 256

    def __post_init__(self) -> None:
        if self.layers and self.space is not None:
            raise UserError("linear has both layers and a space; name the space among the layers")
        for name, several in (("decays", self.decays), ("rates", self.rates)):
            if not several or min(several) <= 0:
                raise UserError(f"{name} is {several}; expected numbers above 0")
        if self.epochs < 1 or self.batch < 1:
            raise UserError(f"epochs is {self.epochs} and batch {self.batch}; expected at least 1")
        super().__post_init__()
        self.places = self.layers or self.places

    def judge(self, encoder: Encoder, places: tuple[str, ...]) -> Iterator[tuple[str, Score]]:
        """Yields top1, top5 where there are more classes, and of several layers <layer>/top1 and <layer>/top5."""
        found: dict[str, list[tuple[str, Score]]] = {}
        solver = self.made_solver()
        quality: dict[str, tuple[float, float]] = {}
        for place, (train, test) in self.sets.read(encoder, places).items():
            ranks, quality[place] = probe(train, test, solver, device=encoder.device)
            found[place] = list(tops(ranks, int(train.y.max()) + 1, test))
        for place, scores in found.items() if len(found) > 1 else ():
            yield from ((f"{place}/{name}", score) for name, score in scores)
        yield from found[max(quality, key=lambda place: quality[place])]

    def made_solver(self) -> Solver:
        """Returns the solver with its settings."""
        if self.solver == "lbfgs":
            return LBFGS(self.decays)
        return SGD(self.rates, epochs=self.epochs, batch=self.batch)


def tops(ranks: Tensor, classes: int, test: Embedded | None = None) -> Iterator[tuple[str, Score]]:
    """Scores ranks (N,) of the right class of the rows: top1, and top5 where there are more classes than five."""
    for name, guesses in (("top1", 1), ("top5", 5)) if classes > 5 else (("top1", 1),):
        right = ranks < guesses
        parts = test.per_class(right) if test is not None else None
        yield name, bootstrap(right, chance=chance(ranks, classes, guesses=guesses), parts=parts)


def probe(
    train: Embedded,
    test: Embedded,
    solver: Solver,
    *,
    classes: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, tuple[float, float]]:
    """Returns the rank of each test row's class (M,), and how good the setting was on the held-out tenth."""
    classes = classes or int(train.y.max()) + 1
    mean, deviation = train.x.mean(dim=0), train.x.std(dim=0, correction=0).clamp(min=1e-6)
    x, z = (((rows.x - mean) / deviation).to(device) for rows in (train, test))
    y = train.y.to(device)
    setting, quality = select(x, y, classes, solver)
    (weight,) = solver.fit(x, y, classes, [setting])
    return ranked((with_bias(z) @ weight).cpu(), test.y), quality


def ranked(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns the place (N,) of each row's class among all, by scores (N, C); of equals the first comes first.

    That of a class that has no score is C.
    """
    known = labels < scores.shape[1]
    right = scores.gather(1, labels.where(known, 0)[:, None])
    before = torch.arange(scores.shape[1]) < labels[:, None]
    return ((scores > right) | ((scores == right) & before)).sum(dim=1).where(known, scores.shape[1])


def select(x: Tensor, y: Tensor, classes: int, solver: Solver) -> tuple[float, tuple[float, float]]:
    """Returns the setting that is best on a tenth of the rows when fitted to the others, and how good it is there.

    Quality is accuracy, and among equals a low loss. The tenth is drawn from a fixed seed.
    """
    held = held_out(len(x)).to(x.device)
    if held.all():  # a single row
        return solver.settings[0], (0.0, 0.0)
    weights = solver.fit(x[~held], y[~held], classes, solver.settings)
    scores = [with_bias(x[held]) @ weight for weight in weights]
    found = [(float((s.argmax(1) == y[held]).float().mean()), -float(F.cross_entropy(s, y[held]))) for s in scores]
    return best(solver.settings, found)


def best(settings: Sequence[float], quality: Sequence[tuple[float, float]]) -> tuple[float, tuple[float, float]]:
    """Returns the setting of the highest quality, and that."""
    place = max(range(len(settings)), key=lambda i: quality[i])
    return settings[place], quality[place]


def held_out(count: int, *, seed: int = 0) -> Tensor:
    """Draws a tenth of this many rows, at least one: (N,) bool."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return torch.zeros(count, dtype=torch.bool).index_fill(0, order[: max(1, count // 10)], True)


evaluation = Linear
