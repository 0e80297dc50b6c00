"""One pass over a set in order, each sample once, as the encoders' preprocessing shows it: for clustering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import torch
from torch.utils.data import IterableDataset, get_worker_info

from mmssl.data.collate import collate
from mmssl.data.shards import Source
from mmssl.data.workers import work
from mmssl.errors import DamagedError
from mmssl.types import Batch, Preprocess, Sample, View


class Plain(View):
    """Shows each modality once, as its encoder's preprocessing makes it."""

    def __call__(self, sample: Sample) -> Sample:
        shown = {key: [make(sample[key])] for key, make in self.preprocess.items() if sample.get(key) is not None}
        return {**shown, "extra": {"index": torch.tensor(sample["__number__"])}} if shown else {}


class Sweep(IterableDataset[Batch]):
    """Batches of every whole sample of a rank's share, shared out among data workers; damaged ones are left out."""

    def __init__(
        self, source: Source, preprocess: Mapping[str, Preprocess], *, batch: int, rank: int = 0, world: int = 1
    ) -> None:
        self.source, self.view = source, Plain(preprocess)
        self.batch, self.rank, self.world = batch, rank, world

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        place, workers = (info.id, info.num_workers) if info else (0, 1)
        mine = self.source.samples(self.view.reads, rank=self.rank * workers + place, world=self.world * workers)
        shown = filter(None, map(self._show, mine))
        while chunk := list(islice(shown, self.batch)):
            yield collate(chunk, self.view)

    def _show(self, sample: Sample) -> Sample:
        try:
            return self.view(sample)
        except DamagedError:
            return {}

    def batches(self, *, workers: int) -> Iterator[Batch]:
        """Yields them, made by so many processes."""
        return work(self, workers=workers)
