"""In what order several sources take turns: each by its weight, evenly, as a function of the place alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ONE = 2**32  # shares are whole parts of it, so that places add up exactly however far a run goes


@dataclass(frozen=True, slots=True)
class Turns:
    """Which source each sample of an endless sequence comes from.

    The first source takes every sample at which the whole part of place x share rises (a Beatty, or Sturmian,
    sequence); the second takes them by the same rule among what the first leaves, and so on. So of the first n samples
    a source of weight w has n w, less than one more or fewer for the first source, less than two for every other.

    shares: of each source in what the sources before it leave, in parts of ONE; the last one's is ONE.
    """

    shares: tuple[int, ...]

    def until(self, place: int) -> list[int]:
        """Returns how many of the first `place` samples come from each source."""
        counts = []
        for share in self.shares:
            counts.append((place * share + ONE // 2) // ONE)
            place -= counts[-1]
        return counts

    def source(self, place: int) -> int:
        """Returns the number of the source that the sample at a place, counted from 0, comes from."""
        for number, share in enumerate(self.shares):
            before, after = ((p * share + ONE // 2) // ONE for p in (place, place + 1))
            if after > before:
                return number
            place -= before
        raise AssertionError("the last share is all that is left")


def turns(weights: Sequence[float]) -> Turns:
    """Returns the turns of sources with these positive weights, which need not add up to 1."""
    rest = [math.fsum(weights[number:]) for number in range(len(weights))]
    shares = [round(ONE * weight / left) for weight, left in zip(weights, rest, strict=True)]
    return Turns((*shares[:-1], ONE))
