"""The timer of one sample: where it ends it, what it leaves as it was, and where it does nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from mmssl.data.timer import TOO_LONG, timed
from mmssl.errors import DamagedError
from mmssl.limits import VARIABLE

LATE = 60  # s, by which a timer of a tenth of a second has surely told


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, "sample_seconds=0.1")
    before = signal.getsignal(signal.SIGALRM)
    yield
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def spin(seconds: float = LATE) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_what_takes_too_long_is_damaged() -> None:
    with (
        pytest.raises(DamagedError, match="sample_seconds=0.1; .*raise it with --limits sample_seconds=1") as told,
        timed(),
    ):
        spin()
    assert told.value.reason == TOO_LONG


def test_other_errors_and_results_pass() -> None:
    with pytest.raises(KeyError, match="another"), timed():
        raise KeyError("another")
    with timed():
        done = True
    assert done


def test_it_is_told_also_where_somebody_took_the_error_for_a_fault_of_the_file() -> None:
    with pytest.raises(DamagedError, match=TOO_LONG), timed(), suppress(ValueError):
        spin()
    with pytest.raises(DamagedError, match=TOO_LONG), timed():
        try:
            spin()
        except ValueError:
            raise DamagedError("a damaged image") from None
    with pytest.raises(DamagedError, match=TOO_LONG), timed():
        for _ in range(2):  # a loop that goes on with the next packet
            with suppress(ValueError):
                spin()


def test_an_outer_timer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = []
    with pytest.raises(DamagedError, match="sample_seconds=0.1;"), timed():
        monkeypatch.setenv(VARIABLE, "sample_seconds=1000")
        with timed():
            reached.append(1)
        monkeypatch.setenv(VARIABLE, "sample_seconds=0.1")
        spin()
    assert reached


def test_the_timer_of_somebody_else_is_left_alone() -> None:
    rung: list[Any] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        with timed():
            spin(0.3)
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 900
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 900 and not rung
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_in_other_threads_nothing_is_timed() -> None:
    done = []

    def run() -> None:
        with timed():
            time.sleep(0.3)
            done.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done
