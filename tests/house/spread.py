"""Spread: how evenly embeddings cover the sphere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

from mmssl.data.shards import Source
from mmssl.errors import UserError
from mmssl.types import Evaluation, Score, Trained


class Spread(Evaluation):
    """Uniformity, log E exp(-2 |x - y|^2), 0 where all are one; -4 at most. Wang & Isola, ICML 2020.

    data: the set, as a task has it.
    encoder: the key of the encoder.
    limit: samples at most.
    """

    def __init__(self, *, data: dict[str, Any], encoder: str = "image", limit: int = 256) -> None:
        self.source, self.encoder, self.limit = Source(**data), encoder, limit

    def check(self, trained: Trained) -> None:
        if self.encoder not in trained.encoders:
            raise UserError(f"spread needs an encoder {self.encoder!r}; the run has {', '.join(trained.encoders)}")

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        encoder = trained.encoders[self.encoder]
        samples = [sample[self.encoder] for sample in self.source.samples({self.encoder}) if self.encoder in sample]
        x = F.normalize(encoder.encode(samples[: self.limit]), dim=1)
        value = float(torch.pdist(x).square().mul(-2).exp().mean().log())
        yield "uniformity", Score(value, value, value, 0.0, len(x))


evaluation = Spread
