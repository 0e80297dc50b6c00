"""At the top of mmssl/evals stand the evaluations alone."""

from __future__ import annotations

from pathlib import Path

from mmssl.names import list_names


def test_every_file_is_an_evaluation() -> None:
    files = {file.stem for file in (Path(__file__).parents[2] / "mmssl" / "evals").glob("*.py")}
    assert files - {"__init__"} == set(list_names("evals"))
