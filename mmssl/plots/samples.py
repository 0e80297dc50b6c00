"""The samples that plots show: those that are whole, prepared within the time limit; the others are left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

from mmssl.data.shards import Source
from mmssl.data.timer import timed
from mmssl.evals.parts.report import skip_damaged
from mmssl.types import Sample

T = TypeVar("T")


def prepared(
    source: Source, reads: Collection[str], make: Callable[[Sample], T], *, spread: int | None = None
) -> Iterator[T]:
    """Yields what `make` returns of each sample.

    spread: how many are wanted from all over the set, of which twice as many are read, for some may be damaged.
    """
    step = 1 if spread is None else max(1, (source.count or 0) // (2 * spread))
    for sample in source.samples(reads, world=step):
        with skip_damaged(sample):
            with timed():
                made = make(sample)
            yield made
