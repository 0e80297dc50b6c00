"""Counts what was drawn, what was damaged and what lacked something, and says when it is too much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from mmssl.data.tar import LOST
from mmssl.errors import DamagedError, LackingError, UserError
from mmssl.schema import Count

ENOUGH = 1000  # draws before which a ratio is not yet judged, except at the end of an epoch
IN_A_ROW = 10_000  # unusable samples in a row that stop a run however many are allowed


PerShard = dict[str, dict[str, Count]]  # reason -> shard -> samples


class _Later(TypedDict, total=False):
    lacking: PerShard
    sources: dict[str, Count]  # name -> samples drawn that could be used, where several sources are mixed


class Counts(_Later):
    """A Report's plain values, as checkpoints and data_report.json hold them."""

    drawn: Count
    damaged: PerShard
    notes: dict[str, Count]


@dataclass(slots=True)
class Report:
    """Draws, samples by (reason, shard), notes by text, and whole samples by source; tallies add up.

    damaged: samples that cannot be used. lacking: whole ones that lack what the task needs, skipped or not.
    """

    drawn: int = 0
    damaged: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    lacking: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: Report) -> None:
        """Takes in what another counted."""
        self.drawn += other.drawn
        self.damaged.update(other.damaged)
        self.notes.update(other.notes)
        self.sources.update(other.sources)
        self.lacking.update(other.lacking)

    def draw(self, shard: str, error: DamagedError | None, source: str = "", *, skipped: bool) -> None:
        """Counts one draw, and what is wrong with it, None for nothing.

        source: that it came from, where there are several. skipped: whether it is not used.
        """
        self.drawn += 1
        if source:
            self.sources[source] += not skipped
        if error is not None:
            kind = self.lacking if isinstance(error, LackingError) else self.damaged
            kind[error.reason, shard] += 1

    def check(self, *, most: float, of: int, known: Collection[str] = (), complete: bool = False) -> None:
        """Raises UserError if more than the ratio `most` of the draws was damaged.

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
        faults = self.damaged + self.lacking
        listed = [f"{reason} ({count} in {shard})" for (reason, shard), count in faults.most_common(5)]
        return "; ".join(listed) + ("; ..." if len(faults) > 5 else "")

    def reasons(self) -> dict[str, int]:
        """Returns reason -> samples that were damaged or lacked something, and note -> its number."""
        found = Counter[str]()
        for (reason, _), count in [*self.damaged.items(), *self.lacking.items()]:
            found[reason] += count
        return dict(found + self.notes)

    def brief(self) -> Report:
        """Returns the counts without shards."""
        damaged, lacking = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for of, into in ((self.damaged, damaged), (self.lacking, lacking)):
            for (reason, _), count in of.items():
                into[reason, ""] += count
        return Report(self.drawn, damaged, self.notes, self.sources, lacking)

    def plain(self) -> Counts:
        """Returns the counts as plain values."""
        lacking: _Later = {"lacking": _per_shard(self.lacking)} if self.lacking else {}
        mixed: _Later = {"sources": dict(self.sources)} if self.sources else {}
        damaged = _per_shard(self.damaged)
        return {"drawn": self.drawn, "damaged": damaged, **lacking, "notes": dict(self.notes), **mixed}

    @classmethod
    def from_plain(cls, value: Counts) -> Report:
        """Makes a tally again of its plain values."""
        notes, sources = Counter(value["notes"]), Counter(value.get("sources", {}))
        return cls(value["drawn"], _counter(value["damaged"]), notes, sources, _counter(value.get("lacking", {})))


def _per_shard(counts: Counter[tuple[str, str]]) -> PerShard:
    found: PerShard = {}
    for (reason, shard), count in counts.items():
        found.setdefault(reason, {})[shard] = count
    return found


def _counter(counts: PerShard) -> Counter[tuple[str, str]]:
    return Counter({(reason, shard): n for reason, shards in counts.items() for shard, n in shards.items()})


def added(counts: Iterable[Counts]) -> Counts:
    """Returns the sum of what several processes counted."""
    total = Report()
    for one in counts:
        total.add(Report.from_plain(one))
    return total.plain()


def figures(counts: Mapping[str, Report]) -> dict[str, float]:
    """Returns what a log line says of the data so far: samples of each source that is mixed, damaged, lacking."""
    values: dict[str, float] = {}
    for key, report in counts.items():
        left = {"damaged": report.damaged.total(), "lacking": report.lacking.total()}
        values |= {f"{key}/samples/{name}": n for name, n in report.sources.items()}
        values |= {f"{key}/{name}": n for name, n in left.items() if n}
    return values
