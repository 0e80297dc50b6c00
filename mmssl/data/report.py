"""Counts what was drawn and what was unusable, and says when it is too much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TypedDict

from mmssl.data.tar import LOST
from mmssl.errors import UserError
from mmssl.schema import Count

ENOUGH = 1000  # draws before which a ratio is not yet judged, except at the end of an epoch
IN_A_ROW = 10_000  # unusable samples in a row that stop a run however many are allowed


class _Mixed(TypedDict, total=False):
    sources: dict[str, Count]  # name -> samples drawn that could be used, where several sources are mixed


class Counts(_Mixed):
    """A Report's plain values, as checkpoints and data_report.json hold them; damaged: reason -> shard -> samples."""

    drawn: Count
    damaged: dict[str, dict[str, Count]]
    notes: dict[str, Count]


@dataclass(slots=True)
class Report:
    """Draws, unusable samples by (reason, shard), notes by text, and whole samples by source; tallies add up."""

    drawn: int = 0
    damaged: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, other: Report) -> None:
        """Takes in what another counted."""
        self.drawn += other.drawn
        self.damaged.update(other.damaged)
        self.notes.update(other.notes)
        self.sources.update(other.sources)

    def draw(self, shard: str, reason: str | None, source: str = "") -> None:
        """Counts one draw, and for what reason it is unusable, None where it is not.

        source: that it came from, where there are several.
        """
        self.drawn += 1
        if source:
            self.sources[source] += reason is None
        if reason is not None:
            self.damaged[reason, shard] += 1

    def check(self, *, most: float, of: int, known: Collection[str] = (), complete: bool = False) -> None:
        """Raises UserError if more than the ratio `most` of the draws was unusable.

        Samples of lost shards come all at once, so they are judged against the whole set or epoch (`of` samples), and
        those of shards that were known to be broken before the run were judged then.
        """
        judged = sum(n for (reason, shard), n in self.damaged.items() if reason in LOST and shard in known)
        bad = self.damaged.total() - judged
        lost = sum(n for (reason, _), n in self.damaged.items() if reason in LOST) - judged
        drawn = self.drawn if complete else max(self.drawn, ENOUGH)
        if bad - lost > most * drawn or lost > most * max(drawn, of):
            raise UserError(
                f"{bad} of {self.drawn} samples are unusable, more than max_damaged={most:g}: {self.text()}"
            )

    def text(self) -> str:
        """Returns the commonest faults, each with its shard."""
        listed = [f"{reason} ({count} in {shard})" for (reason, shard), count in self.damaged.most_common(5)]
        return "; ".join(listed) + ("; ..." if len(self.damaged) > 5 else "")

    def plain(self) -> Counts:
        """Returns the counts as plain values."""
        damaged: dict[str, dict[str, int]] = {}
        for (reason, shard), count in self.damaged.items():
            damaged.setdefault(reason, {})[shard] = count
        mixed: _Mixed = {"sources": dict(self.sources)} if self.sources else {}
        return {"drawn": self.drawn, "damaged": damaged, "notes": dict(self.notes), **mixed}

    @classmethod
    def from_plain(cls, value: Counts) -> Report:
        """Makes a tally again of its plain values."""
        damaged = {(reason, shard): n for reason, shards in value["damaged"].items() for shard, n in shards.items()}
        return cls(value["drawn"], Counter(damaged), Counter(value["notes"]), Counter(value.get("sources", {})))


def added(counts: Iterable[Counts]) -> Counts:
    """Returns the sum of what several processes counted."""
    total = Report()
    for one in counts:
        total.add(Report.from_plain(one))
    return total.plain()
