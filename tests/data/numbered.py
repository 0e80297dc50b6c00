"""Samples that are numbers, so that a test can say which of them a batch holds."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import webdataset

from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.errors import DamagedError
from mmssl.types import Batch, Preprocess, Sample, View


def write_tar(path: Path, samples: Iterable[dict[str, Any]]) -> Path:
    """Writes a tar with plain webdataset."""
    with webdataset.TarWriter(str(path), encoder=False, mtime=0) as tar:
        for sample in samples:
            tar.write(sample)
    return path


def number_set(folder: Path, counts: Sequence[int]) -> str:
    """Writes shards of so many consecutive numbers each."""
    folder.mkdir(exist_ok=True)
    first = 0
    for i, count in enumerate(counts):
        numbers = range(first, first + count)
        write_tar(folder / f"{i:03d}.tar", ({"__key__": f"n{n:04d}", "txt": str(n).encode()} for n in numbers))
        first += count
    return str(folder)


@dataclass
class Numbers(Preprocess):
    """A text that is a number, as that number; "bad" is damaged."""

    modality: ClassVar[str] = "text"

    def __call__(self, raw: Any) -> float:
        if raw == "bad":
            raise DamagedError("not a number", raw)
        return float(raw)

    def collate(self, items: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(items)

    def blank(self) -> float:
        return -1.0


class Shown(View):
    """Shows each modality's number, and one number from each random generator."""

    def __init__(self, preprocess: dict[str, Preprocess]) -> None:
        super().__init__(preprocess)
        self.shows = dict.fromkeys(preprocess, 2)

    def __call__(self, sample: Sample) -> Sample:
        drawn = torch.rand(()).item() + random.random() + np.random.rand()
        return {m: [self.preprocess[m](sample[m]), drawn] for m in self.preprocess if m in sample}


def loader(shards: str | list[str] | Source, *, keys: Sequence[str] = ("text",), **options: Any) -> Loader:
    """Makes a loader of numbers."""
    source = shards if isinstance(shards, Source) else Source(shards=shards)
    preprocess = {key: Numbers() for key in keys}
    return Loader(source, Shown(preprocess), **options)


def numbers(batches: Iterable[Batch]) -> list[int]:
    """Returns the numbers in batches, in order."""
    return [int(n) for batch in batches for n in batch.views["text"][0]]


def drawn(batches: Iterable[Batch]) -> list[float]:
    """Returns what the view drew for each sample, in order."""
    return [float(n) for batch in batches for n in batch.views["text"][1]]
