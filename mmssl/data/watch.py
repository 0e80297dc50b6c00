"""What a sample that hangs or kills its data worker costs: that sample, once it is known by which it was.

A first death says nothing of a sample: a machine that was asleep or short of memory ends workers as well. The worker
that stands in for the dead says before each sample which it is, and the one at which it dies too is lost.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from mmssl.data import timer
from mmssl.errors import UserError

Place = tuple[int, ...]
DEATHS = 10  # that no sample is to blame for, after which a run ends


class Watch:
    """Stands over each sample that a worker makes: it limits the time and, in one that is careful, says which it is.

    careful: things to be made so. alone: whether this is no worker, but the main process.
    """

    def __init__(self, tell: Callable[[Any], None] | None = None, *, careful: int = 0) -> None:
        self.alone, self.careful, self._tell = tell is None, careful, tell

    def over(self, place: Place, name: str) -> AbstractContextManager[None]:
        """Wraps the making of the sample at a place; DamagedError where it takes too long in the main process."""
        tell = self._tell if self.careful else None
        return _told(tell, place, name) if tell else timer.timed()


@contextmanager
def _told(tell: Callable[[Any], None], place: Place, name: str) -> Iterator[None]:
    tell((place, name))
    try:
        with timer.timed():
            yield
    finally:
        tell(None)


@dataclass
class Death(Exception):
    """A worker that ended: its number, its exit code (-9 for signal 9), and the place and name of what it was at.

    at: None where it was at no sample, or not careful. again: whether it stood in for another and made nothing.
    """

    worker: int
    code: int
    at: tuple[Place, str] | None
    again: bool

    @property
    def cause(self) -> str:
        """What ended it."""
        if self.code >= 0:
            return f"exit code {self.code}"
        known = {int(number): number.name for number in signal.Signals}
        name = known.get(-self.code, f"signal {-self.code}")
        return f"{name}, out of memory?" if name == "SIGKILL" else name

    @property
    def reason(self) -> str:
        """What is wrong with a sample that ended it."""
        late = self.code == -getattr(signal, "SIGALRM", 0)
        return timer.TOO_LONG if late else f"a sample that ended its data worker ({self.cause})"


@dataclass
class Lost:
    """Samples that ended their workers, by their places, each with the reason."""

    reasons: dict[Place, str] = field(default_factory=dict)
    unexplained: int = 0
    in_a_row: int = 0  # with nothing made between them

    def add(self, death: Death) -> None:
        """Takes note of a death; raises UserError where another worker would be no use."""
        self.in_a_row = self.in_a_row + 1 if death.again else 1
        if death.at:
            place, name = death.at
            self.reasons[place] = death.reason
            self.unexplained = max(0, self.unexplained - 1)
            told = f"left out {name}: {death.reason}"
        else:
            self.unexplained += 1
            told = f"a data worker died ({death.cause}); another makes the batch that it was at"
        if (death.again and not death.at) or max(self.unexplained, self.in_a_row) > DEATHS:
            last = death.at[1] if death.at else "no sample"
            raise UserError(
                f"data workers keep dying ({death.cause}), the last at {last}: what they "
                "said, if anything, stands above; where memory is short, use fewer workers or a smaller shuffle_mb"
            )
        tqdm.write(told, file=sys.stderr)
