"""Several views of one sample: the encoder that a task looks through, and its features of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.nn.packed import together
from mmssl.types import Batch, Encoder, Objective


class MultiView(Objective):
    """A task about several views of a sample in one modality, whichever its encoder reads.

    encoder: the key of that encoder, where the run has several; by default the only one. separate: whether views pass
    through it one by one, as pooled_views has it; a method's class says what its paper does.
    """

    separate: ClassVar[bool] = False

    def __init__(self, encoders: Mapping[str, Encoder], *, encoder: str | None = None) -> None:
        super().__init__(encoders)
        if encoder is None and len(encoders) > 1:
            raise UserError(f"the run has the encoders {', '.join(encoders)}; say which with objective.encoder")
        self.key = encoder or next(iter(encoders))
        if self.key not in encoders:
            raise UserError(f"objective.encoder is {encoder!r}; the run has {', '.join(encoders)}")
        self.uses = (self.key,)
        self.dim = encoders[self.key].dim

    def pooled(self, encoders: Mapping[str, Encoder], batch: Batch) -> list[Tensor]:
        """Returns the encoder's pooled features (B, D) of every view."""
        return pooled_views(encoders[self.key], self.views(batch), len(self.present(batch)), separate=self.separate)

    def views(self, batch: Batch, least: int = 2) -> list[Tensor]:
        """Returns the views; UserError for fewer than the task compares."""
        views = batch.views[self.key]
        if len(views) < least:
            raise UserError(f"the task compares {least} views of {self.key}, but {len(views)} is shown; see view.views")
        return views

    def present(self, batch: Batch) -> Tensor:
        """Returns which samples count (B,) bool."""
        return batch.present(self.key)


def pooled_views(encoder: Encoder, views: Sequence[Tensor], samples: int, *, separate: bool = False) -> list[Tensor]:
    """Returns pooled features (B, D) of every view; those of one size pass through the encoder at once.

    As a result BatchNorm sees views of one size together; separate: each by itself.
    """
    found: list[Tensor] = []
    for same in [[view] for view in views] if separate else _alike(views):
        x = together(*same, samples=samples) if encoder.modality == "points" else torch.cat(same)
        found += encoder(x).pooled.split(samples)
    return found


def _alike(views: Sequence[Tensor]) -> list[list[Tensor]]:
    return [list(group) for _, group in groupby(views, key=lambda view: view.shape[1:])]
