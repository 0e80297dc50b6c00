"""How many unusable samples are too many, worked out by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from mmssl.data.report import Report, figures
from mmssl.data.tar import CLOSED, ENDS_EARLY, TOO_FEW
from mmssl.errors import DamagedError, LackingError, UserError

BAD = ("not an image", "a.tar")


def tally(drawn: int, **damaged: int) -> Report:
    """bad: unusable samples; lost, known: those of shards that broke off, and of one known before."""
    faults = {"bad": BAD, "lost": (ENDS_EARLY, "b.tar"), "few": (TOO_FEW, "c.tar"), "known": (CLOSED, "k.tar")}
    return Report(drawn, Counter({faults[key]: n for key, n in damaged.items()}))


@pytest.mark.parametrize(
    ("made", "options", "stops"),
    [
        (tally(2000, bad=200), {}, False),  # a tenth just is allowed
        (tally(2000, bad=201), {}, True),
        (tally(50, bad=100), {}, False),  # of at least 1000
        (tally(50, bad=101), {}, True),
        (tally(50, bad=5), {"complete": True}, False),
        (tally(50, bad=6), {"complete": True}, True),
        (tally(2000, lost=500), {"of": 5000}, False),  # of the whole set
        (tally(2000, lost=501), {"of": 5000}, True),
        (tally(2000, lost=300, few=200), {"of": 5000}, False),
        (tally(2000, lost=300, few=201), {"of": 5000}, True),
        (tally(6000, lost=600), {"of": 5000}, False),  # or of the draws, if more
        (tally(6000, lost=601), {"of": 5000}, True),
        (tally(2000, lost=500, bad=200), {"of": 5000}, False),  # each is judged by itself
        (tally(2000, lost=500, bad=201), {"of": 5000}, True),
        (tally(2000, known=2000), {"known": ["k.tar"]}, False),
        (tally(2000, known=2000), {"known": ["other.tar"]}, True),
        (tally(2000, known=500, bad=200, lost=500), {"known": ["k.tar"], "of": 5000}, False),
        (tally(2000, known=500, bad=201, lost=500), {"known": ["k.tar"], "of": 5000}, True),
        (tally(2000, bad=201), {"known": ["a.tar"]}, True),  # only what was lost with the shard was judged then
    ],
)
def test_what_stops_a_run(made: Report, options: dict[str, object], stops: bool) -> None:
    given = {"most": 0.1, "of": 0, **options}
    if stops:
        with pytest.raises(UserError, match=rf"of {made.drawn} samples are unusable, more than max_damaged=0.1: "):
            made.check(**given)  # type: ignore[arg-type]
    else:
        made.check(**given)  # type: ignore[arg-type]


def test_what_is_known_is_not_counted_again_in_the_message() -> None:
    with pytest.raises(UserError, match=r"^300 of 2000 samples .*: not an image \(300 in a.tar\); the shard cannot"):
        tally(2000, bad=300, known=40).check(most=0.1, of=0, known=["k.tar"])


def test_tallies_add_up_and_come_back_from_plain_values() -> None:
    whole = Report(1, Counter({BAD: 2}), Counter({"short": 3}))
    whole.add(Report(10, Counter({BAD: 20, ("other", "a.tar"): 5}), Counter({"short": 30, "long": 1})))
    plain = {
        "drawn": 11,
        "damaged": {"not an image": {"a.tar": 22}, "other": {"a.tar": 5}},
        "notes": {"short": 33, "long": 1},
    }
    assert whole.plain() == plain
    assert Report.from_plain(plain) == whole


@pytest.mark.parametrize("kinds", [5, 6])
def test_the_five_commonest_faults_are_named(kinds: int) -> None:
    made = Report(100, Counter({(f"fault {n}", f"{n}.tar"): n for n in range(1, kinds + 1)}))
    named = [f"fault {n} ({n} in {n}.tar)" for n in range(kinds, kinds - 5, -1)]
    assert made.text() == "; ".join(named) + ("; ..." if kinds > 5 else "")


def test_what_lacks_something_is_counted_apart_and_stops_no_run() -> None:
    made = Report()
    for number in range(20):
        made.draw("a.tar" if number % 2 else "b.tar", LackingError("silent sound", str(number)), "films", skipped=True)
    made.draw("a.tar", LackingError("a sample without text"), "films", skipped=False)
    made.draw("a.tar", DamagedError(*BAD), "films", skipped=True)
    made.draw("a.tar", None, "films", skipped=False)
    made.notes["silent sound"] += 1
    made.check(most=0.05, of=0, complete=True)
    with pytest.raises(UserError, match=r"^1 of 23 samples .*=0.04: silent sound \(10 in b.tar\); silent"):
        made.check(most=0.04, of=0, complete=True)
    assert made.plain() == {
        "drawn": 23,
        "damaged": {"not an image": {"a.tar": 1}},
        "lacking": {"silent sound": {"b.tar": 10, "a.tar": 10}, "a sample without text": {"a.tar": 1}},
        "notes": {"silent sound": 1},
        "sources": {"films": 2},
    }
    assert Report.from_plain(made.plain()) == made
    assert made.reasons() == {"not an image": 1, "silent sound": 21, "a sample without text": 1}
    assert made.brief().plain()["lacking"] == {"silent sound": {"": 20}, "a sample without text": {"": 1}}
    assert made.brief().plain()["damaged"] == {"not an image": {"": 1}} and made.brief().drawn == 23
    expected = {"clip/samples/films": 2, "clip/damaged": 1, "clip/lacking": 21}
    assert figures({"clip": made, "whole": Report(5)}) == expected
