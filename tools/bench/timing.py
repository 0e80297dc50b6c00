"""What the measurements of this folder share: ours and a peer timed in turn, by processor time, as a ratio."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

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
) -> Row:
    """Returns the medians of rounds taken in turn, in milliseconds of processor time of the process, after one more.

    ratio: of the peer to ours, the median of the rounds; spread: their smallest and largest. bound: what no exact
    solution can do without, timed in the same rounds, and bound_by its name.
    """
    calls = [ours, peer, *([bound] if bound else [])]
    times = [[_milliseconds(call) for call in calls] for _ in range(rounds + 1)][1:]
    middle = [statistics.median(column) for column in zip(*times, strict=True)]
    ratios = sorted(round_[1] / round_[0] for round_ in times)
    return {
        "work": work,
        "against": against,
        "ours": middle[0],
        "peer": middle[1],
        "ratio": statistics.median(ratios),
        "spread": (ratios[0], ratios[-1]),
        "bound": f"{bound_by}: {middle[2]:.0f} ms" if bound else bound_by,
        "unit": "ms",
    }


def _milliseconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return (time.process_time() - began) * 1e3


def show(rows: Iterable[Row]) -> None:
    """Prints rows as they come."""
    for row in rows:
        low, high = row["spread"]
        figures = f"{row['ours']:.0f} {row['unit']}, {row['against']} {row['peer']:.0f} {row['unit']}"
        print(
            f"{row['work']}: {figures}, ratio {row['ratio']:.2f} ({low:.2f} to {high:.2f}); {row['bound']}", flush=True
        )
