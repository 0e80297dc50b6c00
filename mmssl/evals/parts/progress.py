"""The bars by which an evaluation is seen to go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

from mmssl import dist
from mmssl.data.shards import Source

T = TypeVar("T")

_SHOWN: ContextVar[bool] = ContextVar("shown", default=False)


@contextmanager
def showing(shown: bool) -> Iterator[None]:
    """Lets bars inside be shown, or not; outside of any, none is."""
    before = _SHOWN.set(shown)
    try:
        yield
    finally:
        _SHOWN.reset(before)


def counted(
    made: Iterable[T], *, total: int | None, desc: str, unit: str, each: Callable[[T], int] = lambda made: 1
) -> Iterator[T]:
    """Yields what is made, and shows on the first process a bar that vanishes at its end. each: the units of one."""
    on = _SHOWN.get() and dist.rank() == 0
    with tqdm(total=total, desc=desc, unit=unit, leave=False, disable=not on) as bar:
        for one in made:
            yield one
            bar.update(each(one))


def passing(
    source: Source, made: Iterable[T], *, world: int = 1, each: Callable[[T], int] = lambda made: 1
) -> Iterator[T]:
    """Yields what is made in a pass over a set that `world` processes share. each: the samples of one."""
    total = None if source.count is None else math.ceil(source.count / world)
    return counted(made, total=total, desc="samples", unit="sample", each=each)
