"""Several views of one sample: the encoder that a task looks through, and its features of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.types import Batch, Encoder, Features, Objective, Ragged, View


class MultiView(Objective):
    """A task about several views of a sample in one modality, whichever its encoder reads.

    A method's class says with `separate` whether views pass through the encoder one by one, as pooled_views has it, and
    with `compares` how many views it needs of those that the data workers show.

    encoder: key of the encoder that learns, where the run has several; by default the only one.
    """

    separate: ClassVar[bool] = False
    compares: ClassVar[int] = 1

    def __init__(self, encoders: Mapping[str, Encoder], *, encoder: str | None = None) -> None:
        super().__init__(encoders)
        if encoder is None and len(encoders) > 1:
            raise UserError(f"the run has the encoders {', '.join(encoders)}; say which with objective.encoder")
        self.key = encoder or next(iter(encoders))
        if self.key not in encoders:
            raise UserError(f"objective.encoder is {encoder!r}; the run has {', '.join(encoders)}")
        self.uses = (self.key,)
        self.dim = encoders[self.key].dim

    def check_view(self, view: View) -> None:
        self._check(view.shows.get(self.key, self.compares), self.compares)

    def pooled(self, encoders: Mapping[str, Encoder], batch: Batch) -> list[Tensor]:
        """Returns the encoder's pooled features (B, D) of every view."""
        return pooled_views(encoders[self.key], self.views(batch), len(self.present(batch)), separate=self.separate)

    def features(self, encoders: Mapping[str, Encoder], batch: Batch) -> list[Features]:
        """Returns the encoder's features of every view, with their tokens and grid."""
        return features_of_views(
            encoders[self.key], self.views(batch), len(self.present(batch)), separate=self.separate
        )

    def places(self, batch: Batch) -> list[Tensor]:
        """Returns where every view lies in its source, as Batch has it; UserError where the View does not say."""
        if self.key not in batch.places:
            raise UserError(f"the task compares places, and its view does not say where its views of {self.key} lie")
        return batch.places[self.key]

    def fields(self, batch: Batch, name: str) -> list[Any]:
        """Returns what moved with every view under a name, as Batch has it; UserError where nothing did."""
        found = batch.fields.get(self.key, {})
        if name not in found:
            raise UserError(f"the task needs {name} that move with {self.key}; say it in view.fields")
        return found[name]

    def views(self, batch: Batch, least: int = 2) -> list[Any]:
        """Returns the views; UserError for fewer than the task compares."""
        views = batch.views[self.key]
        self._check(len(views), least)
        return views

    def _check(self, views: int, least: int) -> None:
        if views < least:
            raise UserError(f"the task compares {least} views of {self.key}, but {views} is shown; see view.views")

    def present(self, batch: Batch) -> Tensor:
        """Returns which samples count (B,) bool."""
        return batch.present(self.key)


def pooled_views(encoder: Encoder, views: Sequence[Any], samples: int, *, separate: bool = False) -> list[Tensor]:
    """Returns pooled features (B, D) of every view; those of one size pass through the encoder at once.

    As a result BatchNorm sees views of one size together; separate: each by itself, as are views that are neither
    tensors nor Ragged.
    """
    passes = _passes(encoder, views, samples, separate=separate)
    return [pooled for features in passes for pooled in features.pooled.split(samples)]


def features_of_views(
    encoder: Encoder, views: Sequence[Any], samples: int, *, separate: bool = False
) -> list[Features]:
    """Returns the features of every view, which pass through the encoder as in pooled_views."""
    passes = _passes(encoder, views, samples, separate=separate)
    return [view for features in passes for view in features.split(samples)]


def _passes(encoder: Encoder, views: Sequence[Any], samples: int, *, separate: bool) -> Iterator[Features]:
    """Yields the features of views that pass through the encoder at once."""
    for same in [[view] for view in views] if separate else _alike(views):
        yield encoder(_as_one(same))


def _alike(views: Sequence[Any]) -> list[list[Any]]:
    """Groups neighbours that can be one batch."""

    def size(view: Any) -> Any:
        values = view.values if isinstance(view, Ragged) else view
        return values.shape[1:] if isinstance(values, Tensor) else id(view)

    return [list(group) for _, group in groupby(views, key=size)]


def _as_one(views: Sequence[Any]) -> Any:
    """Returns several views as one batch, each view's samples behind the last one's."""
    if len(views) == 1:
        return views[0]
    return Ragged.cat(views) if isinstance(views[0], Ragged) else torch.cat(list(views))
