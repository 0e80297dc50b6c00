"""One pass over a set in order, each sample once, as the encoders' preprocessing shows it: for clustering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch

from mmssl.data.collate import collate
from mmssl.data.in_workers import batches_in_workers
from mmssl.data.shards import Source
from mmssl.errors import LackingError
from mmssl.types import Batch, Preprocess, Sample, View


class Plain(View):
    """Shows each modality once, as its encoder's preprocessing makes it; LackingError for a sample that has none."""

    def __init__(self, preprocess: Mapping[str, Preprocess]) -> None:
        super().__init__(preprocess)
        self.reads = tuple(dict.fromkeys(make.field for make in preprocess.values()))

    def __call__(self, sample: Sample) -> Sample:
        shown = {
            key: [make(sample[make.field])]
            for key, make in self.preprocess.items()
            if sample.get(make.field) is not None
        }
        if not shown:
            raise LackingError(f"a sample without {' or '.join(sorted(self.reads))}")
        return {**shown, "extra": {"index": torch.tensor(sample["__number__"])}}


class FullPass:
    """Batches of every whole sample of a rank's share, shared out among data workers; damaged ones are left out."""

    def __init__(
        self, source: Source, preprocess: Mapping[str, Preprocess], *, batch: int, rank: int = 0, world: int = 1
    ) -> None:
        self.source, self.view = source, Plain(preprocess)
        self.batch, self.rank, self.world = batch, rank, world

    def batches(self, *, workers: int) -> Iterator[Batch]:
        """Yields them, of at most `batch` samples, made by this many processes, or by this one for 0."""
        made = batches_in_workers(
            self.source,
            self.view.reads,
            self.view,
            partial(collate, view=self.view),
            size=self.batch,
            workers=workers,
            rank=self.rank,
            world=self.world,
        )
        return (batch for _, batch in made if batch is not None)
