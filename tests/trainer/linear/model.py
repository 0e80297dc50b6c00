"""Linear regression as a run of double precision: its encoder, and a method that writes down what happens to it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmssl import dist
from mmssl.errors import UserError
from mmssl.types import (
    Batch,
    Encoder,
    Epoch,
    Evaluation,
    Features,
    Loss,
    Method,
    Objective,
    Preprocess,
    Sample,
    Score,
    Trained,
    View,
)


@dataclass
class RowPreprocess(Preprocess):
    modality: ClassVar[str] = "row"

    def __call__(self, raw: Any) -> Tensor:
        return torch.as_tensor(raw, dtype=torch.float64)

    def blank(self) -> Tensor:
        return torch.zeros(3, dtype=torch.float64)


class Row(Encoder):
    """A linear layer with dropout; counts its forward passes in a buffer, and has a weight that nothing uses."""

    modality = "row"

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim, self.preprocess = 2, RowPreprocess()
        self.layer = nn.Linear(3, 2).double()
        self.dropout = nn.Dropout(dropout)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("passes", torch.zeros(()))
        self.autocast: list[bool] = []

    def forward(self, x: Tensor) -> Features:
        self.passes += 1
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        return Features(self.dropout(self.layer(x)))


class Shown(View):
    """Shows a row as it is, or with noise from each generator, and writes down how far training is.

    absent: so many rows of each batch, the first, count as absent.
    """

    def __init__(self, preprocess: Mapping[str, Preprocess], *, noise: float = 0.0, absent: int = 0) -> None:
        super().__init__(preprocess)
        self.noise, self.absent = noise, absent

    def __call__(self, sample: Sample) -> Sample:
        drawn = random.gauss(0, 1) + np.random.normal() + torch.randn(3).double()
        return {"row": [self.preprocess["row"](sample["row"]) + self.noise * drawn]}

    def on_device(self, batch: Batch) -> Batch:
        x = batch.views["row"][0]
        batch.extra["progress"] = torch.full((len(x),), self.progress, dtype=torch.float64)
        batch.extra["row_present"] = torch.arange(len(x)) >= self.absent
        batch.views["row"] = [x + self.noise * self.progress * torch.randn(x.shape).double()]
        return batch


class Fit(Objective):
    """Tells the sum of a row from its features: mean squared error.

    head: options of the head's parameters. bad: steps whose loss is no number. take: batches that are taken before the
    first.
    events: what it was asked, in order.
    """

    modalities = ("row",)

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        head: Mapping[str, float] | None = None,
        bad: tuple[int, ...] = (),
        take: int = 0,
    ) -> None:
        super().__init__(encoders)
        self.options, self.bad, self.take = dict(head or {}), bad, take
        self.head = nn.Linear(2, 1).double()
        self.done = 0
        self.events: list[tuple[str, Any]] = []
        self.numbers: list[int] = []

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.head.parameters()), **self.options}] if self.options else []

    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        self.numbers.append(epoch.number)
        if epoch.number == 0:
            batches = epoch.batches()
            self.events.append(("taken", [next(batches).views["row"][0] for _ in range(self.take)]))
        whole = list(epoch.sweep())
        rows = torch.cat([batch.views["row"][0] for batch in whole])
        self.events.append(("epoch", (torch.cat([batch.extra["index"] for batch in whole]), rows, encoders)))

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        x = batch.views["row"][0]
        present = batch.present("row")
        self.events.append(("forward", (x[present], batch.extra["progress"][0].item(), batch.extra["index"])))
        features = encoders["row"](x).pooled
        errors = (self.head(features)[:, 0] - x.sum(dim=1)).square()
        total = dist.mean(errors, present) * (torch.nan if self.done in self.bad else 1.0)
        return Loss(total, logs={"twice": 2 * total.detach()}, embeddings={"row": features.detach()})

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.done += 1
        self.events.append(("after", (progress, encoders["row"].layer.weight.detach().clone())))

    def of(self, kind: str) -> list[Any]:
        """Returns what was written down of one kind."""
        return [value for name, value in self.events if name == kind]


class Peek(Evaluation):
    """Tells one of the encoder's weights. fail: `check` or `run` raises UserError, `crash` another error in `run`."""

    def __init__(self, *, at: int = 0, fail: str = "") -> None:
        self.at, self.fail = at, fail

    def check(self, trained: Trained) -> None:
        if self.fail == "check":
            raise UserError("nothing fits")

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        if self.fail == "run":
            raise UserError("nothing is there")
        if self.fail == "crash":
            raise ZeroDivisionError("by  zero")
        value = trained.encoders["row"].layer.weight.flatten()[self.at].item()
        training = any(part.training for part in trained.encoders["row"].modules())
        yield "weight", Score(value, value - 1, value + 1, chance=float(training), n=7)


encoder = Row
evaluation = Peek
method = Method(Shown, Fit)
