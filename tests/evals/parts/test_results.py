"""Figures that stand in a file are read in one place; a garbled file costs neither the old ones nor the new ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmssl.errors import UserError
from mmssl.evals.parts.results import read_or_set_aside, read_results, scores_of
from mmssl.types import Score

FIGURE = {"value": 0.5, "low": 0.25, "high": 0.75, "chance": 0.1, "n": 8}


def test_figures_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    assert read_results(file) == {} == read_or_set_aside(file) and scores_of({}) == {}
    file.write_text(
        json.dumps({"recipe": "x", "scores": {"a/b": FIGURE, "a/c": {**FIGURE, "trivial": 0.2, "more": 1}}})
    )
    found = scores_of(read_results(file))
    assert found == {"a/b": Score(0.5, 0.25, 0.75, 0.1, 8), "a/c": Score(0.5, 0.25, 0.75, 0.1, 8, 0.2)}
    assert read_or_set_aside(file) == read_results(file) and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "is []; expected a mapping with "),
        ({"scores": []}, "scores is []; expected dict"),
        ({"scores": {"a/b": 0.5}}, "scores.a/b is 0.5; expected a mapping with "),
        ({"scores": {"a/b": {"value": 0.5}}}, "scores.a/b.low is missing; expected float"),
        ({"scores": {"a/b": {**FIGURE, "n": "many"}}}, "scores.a/b.n is 'many'; expected int"),
        ({"left_out": {"a": ["x"]}}, "left_out is {'a': ['x']}; expected dict"),
        ({"warnings": {"a": "x"}}, "warnings is {'a': 'x'}; expected dict"),
        ({"protocols": []}, "protocols is []; expected dict"),
        ({"evaluations": {"a": {"options": 3}}}, "evaluations.a.options is 3; expected dict"),
    ],
)
def test_what_is_none_is_one_line_and_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], found: Any, message: str
) -> None:
    file = tmp_path / "results.json"
    for number, aside in enumerate(("results.json.damaged", "results.json.damaged1")):
        text = json.dumps(found) + " " * number
        file.write_text(text)
        with pytest.raises(UserError) as caught:
            read_results(file)
        assert message in str(caught.value) and str(file) in str(caught.value)
        assert read_or_set_aside(file) == {} and not file.exists()
        assert (tmp_path / aside).read_text() == text, "an older one stays too"
        assert f"it stays as {tmp_path / aside}" in capsys.readouterr().out


def test_a_folder_in_its_place_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "results.json" / "precious").mkdir(parents=True)
    assert read_or_set_aside(tmp_path / "results.json") == {}
    assert (tmp_path / "results.json.damaged" / "precious").is_dir()
