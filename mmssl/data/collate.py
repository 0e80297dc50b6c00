"""Makes one Batch of several viewed samples; a missing modality is stood in for and marked as absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mmssl.types import Batch, Preprocess, Sample


def collate(samples: Sequence[Sample], preprocess: Mapping[str, Preprocess]) -> Batch:
    """Returns views of each modality and `<modality>_present` (B,) bool; blanks stand in where a sample has none."""
    batch = Batch({})
    for modality, prepare in preprocess.items():
        there = [bool(sample.get(modality)) for sample in samples]
        views = max((len(sample[modality]) for sample, has in zip(samples, there, strict=True) if has), default=1)
        rows = [
            sample[modality] if has else [prepare.blank()] * views for sample, has in zip(samples, there, strict=True)
        ]
        batch.views[modality] = [prepare.collate(list(items)) for items in zip(*rows, strict=True)]
        batch.extra[f"{modality}_present"] = torch.tensor(there)
    return batch
