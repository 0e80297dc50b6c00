"""Makes one Batch of several viewed samples; a missing modality is stood in for and marked as absent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmssl.types import Batch, Ragged, Sample, View


def collate(samples: Sequence[Sample], view: View) -> Batch:
    """Returns views of each modality and `<modality>_present` (B,) bool; blanks stand in where a sample has none.

    The samples' `target` and `extra` tensors, of one shape each, are stacked; so are `places` and `fields`, of which a
    Ragged, which holds the rows of its sample, has none where the sample lacks the modality.
    """
    batch = Batch({})
    for modality, prepare in view.preprocess.items():
        there = [bool(sample.get(modality)) for sample in samples]
        blanks = view.blanks(modality) if not all(there) else []
        rows = [sample[modality] if has else blanks for sample, has in zip(samples, there, strict=True)]
        batch.views[modality] = [prepare.collate(list(items)) for items in zip(*rows, strict=True)]
        batch.extra[f"{modality}_present"] = torch.tensor(there)
        _collate_places(modality, samples, there, view, batch)
    if "target" in samples[0]:
        batch.target = torch.stack([sample["target"] for sample in samples])
    for name in samples[0].get("extra", ()):
        batch.extra[name] = torch.stack([sample["extra"][name] for sample in samples])
    return batch


def _collate_places(modality: str, samples: Sequence[Sample], there: Sequence[bool], view: View, batch: Batch) -> None:
    """Adds where a modality's views came from, and what moved with them, where the View says so."""
    first = next((sample for sample, has in zip(samples, there, strict=True) if has), None)
    places = view.blank_places(modality) if first is None else first.get("places", {}).get(modality)
    fields = view.blank_fields(modality) if first is None else first.get("fields", {}).get(modality, {})
    if places:
        blank = [torch.eye(*place.shape) for place in places]
        rows = [s["places"][modality] if has else blank for s, has in zip(samples, there, strict=True)]
        batch.places[modality] = _each_view(rows)
    for name, values in fields.items():
        blanks = [_blank(value) for value in values]
        moved = [s["fields"][modality][name] if has else blanks for s, has in zip(samples, there, strict=True)]
        batch.fields.setdefault(modality, {})[name] = _each_view(moved)


def _blank(value: Tensor | Ragged) -> Tensor | Ragged:
    return Ragged.pack([value.values[:0]]) if isinstance(value, Ragged) else torch.zeros_like(value)


def _each_view(rows: Sequence[Sequence[Tensor | Ragged]]) -> list[Any]:
    return [_joined(list(each)) for each in zip(*rows, strict=True)]


def _joined(values: Sequence[Tensor | Ragged]) -> Tensor | Ragged:
    return Ragged.cat(values) if isinstance(values[0], Ragged) else torch.stack(values)  # type: ignore[arg-type]
