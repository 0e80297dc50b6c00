"""Makes one Batch of several viewed samples; a missing modality is stood in for and marked as absent."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmssl.types import Batch, Sample, View


def collate(samples: Sequence[Sample], view: View) -> Batch:
    """Returns views of each modality and `<modality>_present` (B,) bool; blanks stand in where a sample has none.

    The samples' `target` and `extra` tensors, of one shape each, are stacked.
    """
    batch = Batch({})
    for modality, prepare in view.preprocess.items():
        there = [bool(sample.get(modality)) for sample in samples]
        blanks = view.blanks(modality) if not all(there) else []
        rows = [sample[modality] if has else blanks for sample, has in zip(samples, there, strict=True)]
        batch.views[modality] = [prepare.collate(list(items)) for items in zip(*rows, strict=True)]
        batch.extra[f"{modality}_present"] = torch.tensor(there)
    if "target" in samples[0]:
        batch.target = torch.stack([sample["target"] for sample in samples])
    for name in samples[0].get("extra", ()):
        batch.extra[name] = torch.stack([sample["extra"][name] for sample in samples])
    return batch
