"""Figures as they stand in results.json and eval.json, read in one place."""

from __future__ import annotations

import itertools
from dataclasses import fields
from pathlib import Path
from typing import Any, TypedDict

from tqdm import tqdm

from mmssl.errors import UserError
from mmssl.schema import Count, fit, read_json
from mmssl.types import Score


class _Trivial(TypedDict, total=False):
    trivial: float | None


class Figure(_Trivial):
    """A Score as it is written."""

    value: float
    low: float
    high: float
    chance: float
    n: int


class Results(TypedDict, total=False):
    """What programs read of results.json and eval.json: figures, what was left out of each evaluation, and warnings."""

    samples: Count
    scores: dict[str, Figure]
    left_out: dict[str, dict[str, Count]]
    warnings: dict[str, list[str]]
    protocols: dict[str, Any]


def read_results(file: Path) -> Results:
    """Reads results.json or eval.json, nothing where there is none; raises UserError where it is garbled."""
    results: Results = fit(read_json(file), Results, str(file)) if file.exists() else {}
    return results


def read_or_set_aside(file: Path) -> Results:
    """Returns what stands in a file that is about to be written anew; one that cannot be read stays under another name.

    So neither the old figures are lost nor those that were judged just now.
    """
    try:
        return read_results(file)
    except UserError as error:
        names_left = (file.with_name(f"{file.name}.damaged{number or ''}") for number in itertools.count())
        aside = next(path for path in names_left if not path.exists())
        file.rename(aside)
        tqdm.write(f"{error}; it stays as {aside}")
        return {}


def scores_of(results: Results) -> dict[str, Score]:
    """Returns the figures of a file as scores."""
    known = [part.name for part in fields(Score)]
    found = results.get("scores", {}).items()
    return {key: Score(**{name: value for name, value in figure.items() if name in known}) for key, figure in found}  # type: ignore[arg-type]
