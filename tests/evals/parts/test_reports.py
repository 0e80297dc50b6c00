"""What evaluations say beside their figures, and what they make once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmssl.errors import DamagedError, UserError
from mmssl.evals.parts import memory
from mmssl.evals.parts.memory import recall, remembering
from mmssl.evals.parts.report import Report, add, no_samples_error, reporting, require, skip_damaged, skip_sample, warn


def sample(number: int | None, key: str = "k", shard: str = "a.tar") -> dict[str, Any]:
    return {"__shard__": shard, "__key__": key, "__number__": number}


def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr("mmssl.evals.parts.report.tqdm.write", lines.append)
    return lines


def test_a_sample_counts_once_under_its_first_reason() -> None:
    with reporting() as report:
        for number, reason in ((1, "x"), (1, "y"), (2, "y"), (None, "y")):
            skip_sample(sample(number), DamagedError(reason, "detail"))
        skip_sample({}, DamagedError("y"))
    assert report.left_out == {
        ("a.tar", "k", 1): "x",
        ("a.tar", "k", 2): "y",
        ("a.tar", "k", -1): "y",
        ("None", "None", -1): "y",
    }
    assert report.counts() == {"y": 3, "x": 1} and list(report.counts()) == ["y", "x"]


def test_reports_keep_what_was_said_first() -> None:
    one = Report({("a", "k", 0): "first"}, {"w": None, "v": None})
    one.add(Report({("a", "k", 0): "second", ("b", "k", 0): "third"}, {"u": None, "w": None}))
    assert one.left_out == {("a", "k", 0): "first", ("b", "k", 0): "third"}
    assert list(one.warnings) == ["w", "v", "u"]


def test_lines_name_an_example_of_each_reason() -> None:
    report = Report({("b", "z", 0): "x", ("b", "y", 1): "x", ("c", "", 2): "lost"}, {"careful": None})
    assert report.lines() == ["careful", "left out 3 samples: x (2, e.g. y in b); lost (1, e.g. c)"]
    assert Report({("b", "z", 0): "x"}).lines() == ["left out 1 sample: x (1, e.g. z in b)"]
    assert Report(warnings={"a": None}).lines() == ["a"]


def test_all_processes_tell_as_one_and_the_first_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = Report({("a", "k", 0): "x"}, {"w": None}), ({("a", "k", 0): "y", ("a", "k", 1): "y"}, {"v": None})
    monkeypatch.setattr("mmssl.dist.gather_objects", lambda value: [value, theirs])
    whole = mine.everywhere()
    assert whole.left_out == {("a", "k", 0): "x", ("a", "k", 1): "y"} and list(whole.warnings) == ["w", "v"]
    assert len(mine.left_out) == 1, "it stays as it is"
    lines = said(monkeypatch)
    mine.tell("knn")
    assert lines == ["knn: w", "knn: left out 1 sample: x (1, e.g. k in a)"]
    monkeypatch.setattr("mmssl.dist.rank", lambda: 1)
    mine.tell("knn")
    assert len(lines) == 2
    with reporting() as report:
        report.add(mine)
        error = no_samples_error("no sample")
    assert isinstance(error, UserError)
    assert str(error) == "no sample; w; v; left out 2 samples: x (1, e.g. k in a); y (1, e.g. k in a)"


def test_without_anyone_listening_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = said(monkeypatch)
    skip_sample(sample(1), DamagedError("cut off", "at 3"))
    warn("careful")
    add(Report({("a", "k", 0): "x"}, {"v": None}))
    assert lines == [
        "left out k in a.tar: cut off: at 3",
        "careful",
        "v",
        "left out 1 sample: x (1, e.g. k in a)",
    ]
    with reporting() as outer:
        with reporting() as inner:
            warn("inside")
        warn("outside")
    assert (list(inner.warnings), list(outer.warnings), len(lines)) == (["inside"], ["outside"], 4)
    with pytest.raises(KeyError), reporting():
        raise KeyError
    warn("after")
    assert lines[4:] == ["after"]
    assert str(no_samples_error("none")) == "none"


def test_only_damage_is_skipped() -> None:
    with reporting() as report:
        with skip_damaged(sample(3)):
            raise DamagedError("cut off")
        with pytest.raises(UserError, match="wrong"), skip_damaged(sample(4)):
            raise UserError("wrong")
    assert report.left_out == {("a.tar", "k", 3): "cut off"}


def test_a_sample_has_what_is_asked_of_it() -> None:
    assert require({"a": 0, "b": "", "c": None}, "b", "a") == ["", 0]
    for key in ("c", "d"):
        with pytest.raises(DamagedError, match=f"a sample without {key}"):
            require({"a": 0, "c": None}, "a", key)


@pytest.fixture
def make() -> Callable[[], list[int]]:
    counts: list[int] = []

    def made() -> list[int]:
        counts.append(0)
        warn("made")
        return list(range(len(counts)))

    return made


def test_what_is_remembered_is_made_once_and_tells_each_time(make: Callable[[], list[int]]) -> None:
    with reporting() as report:
        assert recall("a", make) == [0] and recall("a", make) == [0, 1], "outside nothing is remembered"
    with remembering():
        with reporting() as report:
            first = recall("a", make)
        assert recall("b", make) != first
        with reporting() as again:
            assert recall("a", make) is first
        assert list(report.warnings) == list(again.warnings) == ["made"]
        with remembering():
            assert recall("a", make) != first
        assert recall("a", make) is first
    assert recall("a", make) is not first


def test_what_has_no_room_is_made_again(make: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.HELD == 2**31
    monkeypatch.setattr(memory, "HELD", 10)
    with remembering(), reporting():
        kept = recall("a", make, size=lambda made: 4)
        assert recall("a", make, size=lambda made: 4) is kept
        large = recall("b", make, size=lambda made: 7)
        assert recall("b", make, size=lambda made: 7) is not large
        fits = recall("c", make, size=lambda made: 6)
        assert recall("c", make, size=lambda made: 6) is fits
        free = recall("d", make)
        assert recall("d", make) is free
        more = recall("e", make, size=lambda made: 1)
        assert recall("e", make, size=lambda made: 1) is not more
    with remembering(), reporting():
        fits = recall("c", make, size=lambda made: 10)
        assert recall("c", make, size=lambda made: 10) is fits
    with remembering(), reporting():
        kept = recall("a", make, size=lambda made: 4)
        with remembering():
            recall("b", make, size=lambda made: 9)
        fits = recall("c", make, size=lambda made: 6)
        assert recall("c", make, size=lambda made: 6) is fits, "what was held inside has no part in it"
        assert recall("a", make) is kept
    with pytest.raises(KeyError), remembering():
        raise KeyError
    assert memory._MEMORY.get() is None
