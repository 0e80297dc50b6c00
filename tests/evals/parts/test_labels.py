"""Labels as they are compared: names and numbers, their order, what no side knows, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmssl.errors import DamagedError, UserError
from mmssl.evals.parts.classes import (
    as_labels,
    chance,
    class_of,
    disjoint_error,
    labels_of,
    match_classes,
    number_classes,
    number_listed,
    same,
    some,
)
from mmssl.evals.parts.report import reporting


def test_names_and_whole_numbers() -> None:
    for given, expected in ((" a ", "a"), (True, "True"), (0, 0), (-3, -3), (2.0, 2), ("7", "7"), (" 07 ", "07")):
        found = class_of(given)
        assert found == expected and type(found) is type(expected)
    for wrong, told in ((None, "without a label"), (float("nan"), "without a label"), ("\t", "without a label")):
        with pytest.raises(DamagedError, match=told):
            class_of(wrong)
    long: Any = ["x" * 100]
    with pytest.raises(DamagedError) as error:
        class_of(long)
    assert error.value.detail == repr(long)[:60]
    for wrong in (1.5, float("inf"), {}):
        with pytest.raises(DamagedError, match="neither a name nor a whole number"):
            class_of(wrong)
    assert same(" caf\u0065\u0301 ") == "caf\u00e9" and same(5) == "5"


def test_numbers_of_classes_go_by_sorted_names() -> None:
    assert number_classes(["b", "B", "a", "b"], where="x") == {"B": 0, "a": 1, "b": 2}
    assert number_classes([10, 9, -1, 10], where="x") == {-1: 0, 9: 1, 10: 2} and number_classes([], where="x") == {}
    with pytest.raises(
        UserError, match=r"the set has names of classes and bare numbers \(a, 3, 11\); the names stand in"
    ):
        number_classes([11, "a", 3], where="the set")


def test_names_are_numbers_where_all_are() -> None:
    assert as_labels(["3", "11"]) == [3, 11] and as_labels(["3", "x"]) == ["3", "x"]
    assert as_labels(["3", "07"]) == ["3", "07"] and as_labels(["3", "-1"]) == ["3", "-1"]


def test_a_list_of_classes() -> None:
    with reporting() as report:
        assert (
            number_listed(["b", "a"], ["a", 0])
            == number_listed(["b", "a"], [])
            == number_listed(["b", "a"], ["x"])
            == {"b": 0, "a": 1}
        )
        assert number_listed(["3", "1"], [1, 0]) == {3: 0, 1: 1}
    assert not report.warnings
    with reporting() as report:
        assert number_listed(["d", "c", "b", "a"], [5]) == {0: 0, 1: 1, 2: 2, 3: 3}
    (warning,) = report.warnings
    assert warning.endswith("places in the list of classes: 0 is d, 1 is c, 2 is b, ...; check its order")


def test_labels_that_the_other_side_lacks_are_numbered_on_and_counted() -> None:
    with reporting() as report:
        found = match_classes(["z", "a", "y", "z", "b"], {"a": 0, "b": 1, "c": 2}, where="here", known_as="there")
    assert found == [4, 0, 3, 4, 1]
    assert list(report.warnings) == [
        "3 of 5 samples of here have no right answer, since there lacks their classes (y: 1, z: 2)"
    ]
    with reporting() as report:
        assert match_classes(["b", "a"], {"a": 0, "b": 1}, where="here", known_as="there") == [1, 0]
    assert not report.warnings
    with pytest.raises(UserError, match="here has none of the classes of there: y, z against a$"):
        match_classes(["z", "y", "z"], {"a": 0}, where="here", known_as="there")
    with pytest.raises(UserError, match="x has names of classes and bare numbers"), reporting():
        match_classes(["z", 3, "a"], {"a": 0}, where="x", known_as="there")


def test_samples_without_a_label_are_left_out() -> None:
    samples = [{"l": "a", "__number__": 0}, {"__number__": 1}, {"l": 1.5, "__number__": 2}, {"l": 4, "__number__": 3}]
    with reporting() as report:
        assert labels_of(samples, "l") == ([0, 3], ["a", 4])
    assert [number for *_, number in report.left_out] == [1, 2]
    with reporting(), pytest.raises(UserError, match="no sample has a k that is a name or a whole number; left out 4"):
        labels_of(samples, "k")


def test_chance_counts_what_has_a_right_answer() -> None:
    asked = torch.tensor([0, 1, 2, 2, 3, 4, 3, 3])
    assert chance(asked, 3) == pytest.approx(4 / 8 / 3) and chance(asked, 5, guesses=2) == pytest.approx(2 / 5)
    assert chance(asked, 4, guesses=3) == pytest.approx(3 * 7 / 8 / 4)


def test_sides_that_share_nothing_are_told_in_a_few_words() -> None:
    assert (
        str(disjoint_error(["b", "a", "b"], ["c"], where="X", known_as="Y"))
        == "X has none of the classes of Y: a, b against c"
    )
    assert "names and bare numbers cannot be compared: the names stand" in str(
        disjoint_error([1], ["c"], where="", known_as="")
    )
    assert "cannot be compared" in str(disjoint_error([1, "a"], ["c"], where="", known_as=""))
    assert "cannot be compared" not in str(disjoint_error([1], [2], where="", known_as=""))
    assert some([5, 3, 5, 11]) == "3, 5, 11" and some("fedcb") == "b, c, d, e, f"
    assert some("gfedcba") == "a, b, c, d, e, ..." and some("ba", lambda name: name.upper()) == "A, B"
