"""What the measurements of this folder share: ours and a peer timed in turn, as a ratio."""

from __future__ import annotations

import math
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

Row = dict[str, Any]


def compare(
    work: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    against: str,
    bound: Callable[[], object] | None = None,
    bound_by: str = "",
    rounds: int = 7,
    per_sample: bool = False,
    device: str = "cpu",
) -> Row:
    """Returns medians of rounds taken in turn, after one more: ms of processor time, or of the clock's on CUDA.

    ratio: of the peer to ours, the median of the rounds; spread: their smallest and largest. bound: what no exact
    solution can do without, timed in the same rounds, and bound_by its name. per_sample: calls return how many samples
    they made, and figures are of one.
    """
    calls = [ours, peer, *([bound] if bound else [])]
    times = [[_milliseconds(call, per_sample, device) for call in calls] for _ in range(rounds + 1)][1:]
    middle = [statistics.median(column) for column in zip(*times, strict=True)]
    ratios = sorted(round_[1] / round_[0] for round_ in times)
    return {
        "work": work,
        "against": against,
        "ours": middle[0],
        "peer": middle[1],
        "ratio": statistics.median(ratios),
        "spread": (ratios[0], ratios[-1]),
        "bound": f"{bound_by}: {middle[2]:.3g} ms" if bound else bound_by,
        "unit": "ms/sample" if per_sample else "ms",
    }


def cpu() -> float:
    """Returns the processor time (s) of this process and of those that it started and that have ended."""
    uses = [resource.getrusage(which) for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def _milliseconds(call: Callable[[], object], per_sample: bool, device: str) -> float:
    clock, wait = (time.perf_counter, torch.cuda.synchronize) if device == "cuda" else (cpu, lambda: None)
    wait()
    began = clock()
    made = call()
    wait()
    return (clock() - began) * 1e3 / (int(made) if per_sample and isinstance(made, int) else 1)


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


def show(rows: Iterable[Row]) -> None:
    """Prints rows as they come."""
    for row in rows:
        spread = "({:.2f} to {:.2f})".format(*row["spread"]) if row.get("spread") else ""
        beside = ""
        if row.get("ratio") is not None:
            beside = f", {row['against']} {row['peer']:.4g} {row['unit']}, ratio {row['ratio']:.2f} {spread}"
        print(f"{row['work']}: {row['ours']:.4g} {row['unit']}{beside}; {row['bound']}", flush=True)
