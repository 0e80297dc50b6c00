"""SIGTERM and SIGUSR1 during a run: all its processes stop after the same step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from mmssl import dist

NAMES = ("SIGTERM", "SIGUSR1")  # some systems lack the second
TOGETHER = 1.0  # seconds in which one request may come several times: from the cluster, say, and again from torchrun


class Stopping:
    """Takes note of the signals by which clusters end a job, so that the run stops where nothing is lost.

    The first is noted; another, a second later or more, does what it would have done without this. Handlers are put
    back at the end, and signals that were ignored stay so. Outside of the main thread, where Python sets no handlers,
    nothing is noted.
    """

    def __enter__(self) -> Stopping:
        self.signal, self.since = 0, 0.0  # what came to this process, and when
        self.agreed = 0  # what came to any process, once all know of it
        self.answer: Callable[[], int] | None = None  # of all, to what was asked after the step before
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in [getattr(signal, name) for name in NAMES if hasattr(signal, name)]:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: set by other means than Python
                    self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if not self.signal:
            self.signal, self.since = number, time.monotonic()
        elif time.monotonic() - self.since > TOGETHER:
            self._restore()
            signal.raise_signal(number)

    def after_step(self, *, last: bool) -> bool:
        """Whether to stop after this step, the same for all processes: one alone is asked now, several were asked
        after the step before, so that none waits for the others, nor for a device. last: no step follows.
        """
        if dist.world() == 1:
            return self.now()
        self.agreed = self._take()
        if not (last or self.agreed):
            self.answer = dist.start_max(self.signal)
        return self.agreed > 0

    def now(self) -> bool:
        """Whether to stop here, the same for all processes, which wait for each other."""
        self._take()
        self.agreed = dist.start_max(self.signal)()
        return self.agreed > 0

    def _take(self) -> int:
        answer, self.answer = self.answer, None
        return answer() if answer else 0

    @property
    def name(self) -> str:
        """The signal that all stop for."""
        return signal.Signals(self.agreed).name
