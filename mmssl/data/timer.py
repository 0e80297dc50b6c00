"""The time that one sample may take: `sample_seconds` of the limits, by the clock."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mmssl.errors import DamagedError
from mmssl.limits import hint, limit

TOO_LONG = "a sample that took longer than the limit"
AGAIN = (
    1.0  # s after which it is told again, where code that reads damaged files took the first for one of their faults
)

_ends_process = False


def end_process() -> None:
    """Lets the timer end this process, a data worker, from now on: also in C code that holds the GIL."""
    global _ends_process
    _ends_process = True
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


@contextmanager
def timed() -> Iterator[None]:
    """Ends the making of one sample that takes longer than the limit.

    In a data worker the kernel ends the process. Elsewhere DamagedError is raised as soon as Python code runs again, so
    that one call into C that does not return is waited for. Nothing is timed in other threads than the main one, where
    somebody's timer runs already (an outer one of these, or the user's), and on Windows, which has no such timer.
    """
    unfit = not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread()
    if unfit or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
    elif _ends_process:
        signal.setitimer(signal.ITIMER_REAL, limit("sample_seconds"))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    else:
        yield from _interrupted()


def _interrupted() -> Iterator[None]:
    """Raises DamagedError out of what runs meanwhile, when its time is up."""
    late = over = False

    def tell(*_: object) -> None:
        nonlocal late
        if not over:
            late = True
            raise _error()

    before = signal.signal(signal.SIGALRM, tell)
    try:
        signal.setitimer(signal.ITIMER_REAL, limit("sample_seconds"), AGAIN)
        try:
            yield
        finally:
            over = True
    except Exception:
        if late:
            raise _error() from None
        raise
    finally:  # also where the time was up just before `over`
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if late:  # somebody took the error for one of the file's
        raise _error()


def _error() -> DamagedError:
    return DamagedError(TOO_LONG, hint("sample_seconds", 10 * limit("sample_seconds")))
