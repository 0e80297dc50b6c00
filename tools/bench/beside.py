"""Measures work beside a peer's by processor time, in turn, and tells both as one row."""

from __future__ import annotations

import math
import resource
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Row = dict[str, Any]


def cpu() -> float:
    """Returns the processor time (s) of this process and of those that it started and that have ended."""
    return sum(
        use.ru_utime + use.ru_stime
        for use in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def took(work: Callable[[], int]) -> float:
    """Returns the seconds per sample of work that returns how many samples it has made."""
    before = cpu()
    count = work()
    return (cpu() - before) / count


def row(
    work: str, ours: Callable[[], int], peer: Callable[[], int], *, bound: str, rounds: int = 5, unit: str = "ms/sample"
) -> Row:
    """Measures both in turn, after a first round that is not counted.

    Returns the medians, their ratio (above 1 ours is faster), the spread of the rounds' ratios, and what bounds ours.
    """
    pairs = [(took(ours), took(peer)) for _ in range(rounds + 1)][1:]
    mine, theirs = (statistics.median(each) * 1e3 for each in zip(*pairs, strict=True))
    ratios = [other / own for own, other in pairs]
    return {
        "work": work,
        "ours": mine,
        "peer": theirs,
        "ratio": theirs / mine,
        "spread": (min(ratios), max(ratios)),
        "bound": bound,
        "unit": unit,
    }


def taken(batches: Iterable[Any], count: float = math.inf) -> int:
    """Takes batches up to this many samples; returns how many they held, once their workers have ended."""
    seen, source = 0, iter(batches)
    for batch in source:
        seen += len(batch)
        if seen >= count:
            break
    if hasattr(source, "close"):
        source.close()
    elif hasattr(source, "_shutdown_workers"):  # of a DataLoader, which has no public name for it
        source._shutdown_workers()
    return seen


def tell(rows: Iterator[Row]) -> None:
    """Prints rows as a table, each as soon as it is measured."""
    print("| work | ours | peer | unit | peer / ours | rounds | bound |\n|---|---|---|---|---|---|---|")
    for each in rows:
        low, high = each["spread"]
        print(
            f"| {each['work']} | {each['ours']:.3f} | {each['peer']:.3f} | {each['unit']} | {each['ratio']:.2f} | "
            f"{low:.2f} - {high:.2f} | {each['bound']} |"
        )
        sys.stdout.flush()
