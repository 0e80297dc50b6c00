"""results.json and eval.json: the one format, and the one place where it is read and written.

evaluations: of each the options it was run by, when, and of what (`judged`, or after how many `samples` of training).
scores: `evaluation/figure` -> a Score. left_out, warnings: of each evaluation.
Figures by other options or on other data stand under a key that says what differs: `knn[data.shards=data/mine]/k5`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypedDict

from tqdm import tqdm

from mmssl import own
from mmssl.errors import UserError
from mmssl.files import write_atomically
from mmssl.schema import Count, fit, read_json
from mmssl.types import Score

SAME = ("name", "options", "judged", "model")  # by these figures are of one kind


class _Optional(TypedDict, total=False):
    trivial: float | None
    parts: dict[str, float] | None


class Figure(_Optional):
    """A Score as it is written."""

    value: float
    low: float
    high: float
    chance: float
    n: int


class Ran(TypedDict, total=False):
    """How an evaluation was run; judged: the encoder's folder or name, where it is none of a run's recipe."""

    name: str
    options: dict[str, Any]
    date: str
    judged: str
    model: dict[str, Any]
    samples: Count


class Results(TypedDict, total=False):
    """What programs read of either file; protocols, encoder, train, data: of files that older versions wrote."""

    samples: Count
    evaluations: dict[str, Ran]
    scores: dict[str, Figure]
    left_out: dict[str, dict[str, Count]]
    warnings: dict[str, list[str]]
    protocols: dict[str, dict[str, Any]]
    encoder: str


@dataclass(frozen=True)
class Judged:
    """What came of one evaluation: scores by figure, remarks (left_out, warnings), and what else is told of it."""

    key: str
    node: Mapping[str, Any]
    scores: Mapping[str, Score]
    remarks: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def ran(self) -> Ran:
        """How it was run, now."""
        return _ran(self.key, self.node, **self.about, date=datetime.now(timezone.utc).isoformat(timespec="seconds"))


def _ran(key: str, node: Mapping[str, Any], **about: Any) -> Ran:
    named = own.renamed(node, own.title)  # where a file of own code lies tells no figures apart
    options = {name: value for name, value in named.items() if name not in ("name", "every")}
    made: Ran = json.loads(json.dumps({"name": named.get("name", key), "options": options, **about}))
    return made


def read_results(file: Path) -> Results:
    """Reads results.json or eval.json, nothing where there is none; raises UserError where it is garbled."""
    results: Results = fit(read_json(file), Results, str(file)) if file.exists() else {}
    if "protocols" in results:  # written before evaluations had each their own
        of = {"judged": results["encoder"]} if "encoder" in results else {}
        old = {key: _ran(key, node, **of) for key, node in results.pop("protocols").items()}
        results["evaluations"] = {**old, **results.get("evaluations", {})}
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


def record(
    file: Path,
    judged: Mapping[str, Judged],
    head: Mapping[str, Any],
    *,
    assumed: Mapping[str, Mapping[str, Any]] | None = None,
    newest_first: bool = False,
) -> None:
    """Adds figures to a file. Those of the same options, data and encoder take the place of the old ones.

    head: what the file says of the whole. assumed: the nodes by which figures were made whose file does not say it.
    newest_first: let the new figures have the plain key, where the old ones are of other options.
    """
    results = read_or_set_aside(file)
    keys = {key.split("/")[0] for key in results.get("scores", {})}
    missing = {key: _ran(key, node) for key, node in (assumed or {}).items() if key in keys}
    ran = {**missing, **results.get("evaluations", {})}
    tables: dict[str, dict[str, Any]] = {"evaluations": dict(ran)}
    for name in ("left_out", "warnings"):
        tables[name] = dict(results.get(name, {}))  # type: ignore[call-overload]
    scores: dict[str, Any] = dict(results.get("scores", {}))
    for key, made in judged.items():
        new = made.ran
        name = _key_of(key, new, tables["evaluations"])
        if newest_first and name != key:
            _rename(key, _apart(key, new, tables["evaluations"][key]), tables, scores)
            name = key
        scores = {other: score for other, score in scores.items() if not other.startswith(f"{name}/")}
        scores |= {f"{name}/{figure}": _figure(score) for figure, score in made.scores.items()}
        for table, values in {"evaluations": new, **made.remarks}.items():
            tables.setdefault(table, {})[name] = values
    write_atomically(file, json.dumps({**head, **tables, "scores": scores}, indent=2).encode())


def _key_of(key: str, new: Ran, ran: Mapping[str, Ran]) -> str:
    """Returns the key for figures: that of figures of the same kind, the plain one, or one that says what differs."""
    for name, old in ran.items():
        if name.partition("[")[0] == key and all(old.get(part) == new.get(part) for part in SAME):
            return name
    return key if key not in ran else _apart(key, ran[key], new)


def _apart(key: str, old: Ran, new: Ran) -> str:
    """Returns a key that says how new figures differ from old ones."""
    one, two = _flat(_options(old)), _flat(_options(new))
    differ = [name for name in {**one, **two} if one.get(name) != two.get(name)]
    return f"{key}[{', '.join(f'{name}={two[name]}' if name in two else f'{name} by default' for name in differ)}]"


def _options(ran: Ran) -> dict[str, Any]:
    return {**{part: ran[part] for part in SAME if part in ran and part != "options"}, **ran.get("options", {})}  # type: ignore[literal-required]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in tree.items():
        inner = isinstance(value, dict)
        found |= _flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": str(value)}
    return found


def _rename(key: str, name: str, tables: Mapping[str, dict[str, Any]], scores: dict[str, Any]) -> None:
    for table in tables.values():
        if key in table:
            table[name] = table.pop(key)
    for old in [old for old in scores if old.startswith(f"{key}/")]:
        scores[name + old.removeprefix(key)] = scores.pop(old)


def _figure(score: Score) -> dict[str, Any]:
    return {name: value for name, value in asdict(score).items() if name != "parts" or value}
