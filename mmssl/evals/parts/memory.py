"""What several evaluations of the same encoder need is made once: features, and the baselines beside it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from mmssl.evals.parts.report import Report, add, reporting

Made = TypeVar("Made")
HELD = 2**31  # bytes of features that are remembered; what is beyond is made again

_MEMORY: ContextVar[dict[Hashable, tuple[object, Report]] | None] = ContextVar("memory", default=None)
_BYTES: ContextVar[list[int]] = ContextVar("bytes")


@contextmanager
def remembering() -> Iterator[None]:
    """Lets evaluations inside share what they make, as long as no encoder changes."""
    memory, held = _MEMORY.set({}), _BYTES.set([0])
    try:
        yield
    finally:
        _MEMORY.reset(memory)
        _BYTES.reset(held)


def recall(key: Hashable, make: Callable[[], Made], *, size: Callable[[Made], int] = lambda made: 0) -> Made:
    """Returns what was made under a key, or makes it; size: its bytes."""
    memory = _MEMORY.get()
    if memory is None:
        return make()
    if key in memory:
        made, report = memory[key]
    else:
        with reporting() as report:
            made = make()
        if _BYTES.get()[0] + size(made) <= HELD:
            _BYTES.get()[0] += size(made)
            memory[key] = made, report
    add(report)  # what was left out of features is left out of every figure on them
    return made  # type: ignore[return-value]
