"""What a death says of a sample, and when there are too many."""

from __future__ import annotations

import signal

import pytest

from mmssl.data.timer import TOO_LONG
from mmssl.data.watch import DEATHS, Death, Lost, Watch
from mmssl.errors import DamagedError, UserError


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-signal.SIGALRM, TOO_LONG),
        (-signal.SIGSEGV, "a sample that ended its data worker (SIGSEGV)"),
        (-250, "a sample that ended its data worker (signal 250)"),
        (3, "a sample that ended its data worker (exit code 3)"),
    ],
)
def test_the_reason_says_what_ended_the_worker(code: int, reason: str) -> None:
    assert Death(0, code, None, again=False).reason == reason


def test_a_careful_watch_says_which_sample_it_is_and_when_it_is_done() -> None:
    told: list[object] = []
    watch = Watch(told.append, careful=1)
    with pytest.raises(DamagedError), watch.over((0, 7), "n of a.tar"):
        told.append("making")
        raise DamagedError("damaged")
    assert told == [((0, 7), "n of a.tar"), "making", None]
    watch.careful = 0
    with watch.over((0, 8), "m of a.tar"):
        pass
    assert len(told) == 3 and not watch.alone and Watch().alone


def test_deaths_that_nothing_explains_are_counted() -> None:
    lost = Lost()
    for number in range(DEATHS):
        lost.add(Death(0, -9, None, again=False))
        lost.add(Death(0, -9, ((0, number), "n of a.tar"), again=True))
        lost.add(Death(0, -9, None, again=False))
    assert len(lost.reasons) == DEATHS
    with pytest.raises(UserError, match=r"keep dying \(SIGKILL, out of memory\?\), the last at no sample"):
        lost.add(Death(0, -9, None, again=False))


def test_deaths_in_a_row_with_nothing_made_between_them_are_counted() -> None:
    lost = Lost()
    for number in range(DEATHS + 1):
        lost.add(Death(0, 3, ((0, number), "n of a.tar"), again=number > 1))
    with pytest.raises(UserError, match=r"keep dying \(exit code 3\), the last at m of a.tar"):
        lost.add(Death(0, 3, ((0, 99), "m of a.tar"), again=True))
