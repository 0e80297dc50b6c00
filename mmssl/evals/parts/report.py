"""What an evaluation has to say beside its figures: the samples that it left out, and warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tqdm import tqdm

from mmssl import dist
from mmssl.data.in_workers import Made
from mmssl.errors import DamagedError, LackingError, UserError

T = TypeVar("T")
Place = tuple[str, str, int]  # shard, key, number in the set


@dataclass(slots=True)
class Report:
    """left_out: sample -> reason, so that each counts once however often it is read. warnings: in order, each once."""

    left_out: dict[Place, str] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)

    def add(self, other: Report) -> None:
        """Takes in what another has to say."""
        self.left_out = other.left_out | self.left_out
        self.warnings |= other.warnings

    def everywhere(self) -> Report:
        """Returns what all processes have to say together, the same on each."""
        whole = Report()
        for left_out, warnings in dist.gather_objects((self.left_out, self.warnings)):
            whole.add(Report(left_out, warnings))
        return whole

    def counts(self) -> dict[str, int]:
        """Returns reason -> samples left out, the commonest first."""
        return dict(Counter(self.left_out.values()).most_common())

    def lines(self) -> list[str]:
        """Returns the warnings, and one line about what was left out with an example of each reason."""
        described = []
        for reason, count in self.counts().items():
            shard, key, _ = min(place for place, other in self.left_out.items() if other == reason)
            described.append(f"{reason} ({count}, e.g. {f'{key} in {shard}' if key else shard})")
        total = len(self.left_out)
        return [
            *self.warnings,
            *([f"left out {total} sample{'s'[: total > 1]}: {'; '.join(described)}"] if described else []),
        ]

    def tell(self, name: str) -> None:
        """Prints the lines under a name, on the first process."""
        for line in self.lines() if dist.rank() == 0 else ():
            tqdm.write(f"{name}: {line}")


_NOW: ContextVar[Report | None] = ContextVar("report", default=None)


@contextmanager
def reporting() -> Iterator[Report]:
    """Collects what is left out and warned of inside; outside of any, each is printed at once."""
    report = Report()
    before = _NOW.set(report)
    try:
        yield report
    finally:
        _NOW.reset(before)


def skip_sample(sample: Mapping[str, Any], error: DamagedError) -> None:
    """Reports that a sample is left out."""
    number = sample.get("__number__")
    place = (str(sample.get("__shard__")), str(sample.get("__key__")), -1 if number is None else number)
    report = _NOW.get()
    if report is None:
        tqdm.write(f"left out {place[1]} in {place[0]}: {error}")
    else:
        report.left_out.setdefault(place, error.reason)


def usable(made: Iterable[Made[T]]) -> Iterator[Made[T]]:
    """Yields the samples of which something was made; the others are left out."""
    for one in made:
        if one.error is None:
            yield one
        else:
            skip_sample(one.about, one.error)


@contextmanager
def skip_damaged(sample: Mapping[str, Any]) -> Iterator[None]:
    """Leaves the sample out where it turns out damaged inside."""
    try:
        yield
    except DamagedError as error:
        skip_sample(sample, error)


def require(sample: Mapping[str, Any], *keys: str) -> list[Any]:
    """Returns what a sample holds under the keys; raises LackingError where it lacks one."""
    for key in keys:
        if sample.get(key) is None:
            raise LackingError(f"a sample without {key}")
    return [sample[key] for key in keys]


def warn(text: str) -> None:
    """Reports a warning."""
    add(Report(warnings={text: None}))


def add(other: Report) -> None:
    """Reports again what was reported before, where its result is used again."""
    report = _NOW.get()
    if report is not None:
        report.add(other)
        return
    for line in other.lines():
        tqdm.write(line)


def no_samples_error(what: str) -> UserError:
    """Returns the error for data of which nothing can be judged; on every process alike, after all have read."""
    whole = (_NOW.get() or Report()).everywhere()
    return UserError(f"{what}{''.join(f'; {line}' for line in whole.lines())}")
