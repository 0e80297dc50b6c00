"""A model card: what a run's encoders are, how they are used, what they learnt from, and what they reached."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mmssl import names
from mmssl.judge import read_scores
from mmssl.schema import read_yaml
from mmssl.types import Encoder

USER = re.compile(r"//[^/@]*@")  # of an address


def card(
    folder: Path, encoders: Mapping[str, Encoder], *, repo_id: str, licence: str, recipe: Mapping[str, Any] | None
) -> str:
    """Returns the card of a run, or of an encoder's folder, as Markdown with the hub's head.

    folder: the run's, whose results.json holds the figures.
    recipe: as `public` returns it; none for an encoder alone.
    """
    head = {"license": licence, "library_name": "mmssl", "tags": [*_tags(encoders, recipe or {})]}
    first = next(iter(encoders))
    chosen = f", encoder={first!r}" if len(encoders) > 1 else ""
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {repo_id.rpartition('/')[2]}\n",
        "Encoders trained by self-supervised learning with mmssl.\n",
        _table(("encoder", "reads", "architecture", "features", "parameters"), _encoder_rows(encoders)),
        f"## Use\n\n```python\nimport mmssl\n\nencoder = mmssl.from_pretrained({repo_id!r}{chosen})\n"
        "features = encoder.encode([...])  # (N, D)\n```\n",
    ]
    if recipe:
        parts += ["## Data\n", _table(("task", "method", "data", "licence of the data"), _task_rows(recipe))]
        parts += [f"## Recipe\n\n```yaml\n{yaml.safe_dump(recipe, sort_keys=False)}```\n"]
    if rows := [*_figure_rows(folder)]:
        parts += ["## Figures\n", _table(("figure", "value", "95% interval", "chance", "samples"), rows)]
    parts += [f"## Licence\n\nThe weights: {licence}. What they learnt from has licences of its own.\n"]
    return "\n".join(parts)


def public(value: Any) -> Any:
    """Returns a recipe's plain values without what tells of the machine: folders above files, commands, passwords."""
    if isinstance(value, Mapping):
        return {key: public(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [public(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if value.startswith("pipe:"):
        return "pipe:..."
    if "://" in value:
        return USER.sub("//", value).partition("?")[0]
    return Path(value).name if value.startswith(("/", "~", "../")) else value


def _tags(encoders: Mapping[str, Encoder], recipe: Mapping[str, Any]) -> list[str]:
    methods = [str(_method(key, task)) for key, task in recipe.get("tasks", {}).items()]
    return [*dict.fromkeys(["self-supervised-learning", *methods, *(each.modality for each in encoders.values())])]


def _method(key: str, task: Mapping[str, Any]) -> str:
    return str((task.get("method") or {}).get("name", key))


def _encoder_rows(encoders: Mapping[str, Encoder]) -> Iterator[tuple[object, ...]]:
    for key, encoder in encoders.items():
        count = sum(parameter.numel() for parameter in encoder.parameters())
        yield key, encoder.modality, f"`{encoder.config()['name']}`", encoder.dim, f"{count:,}"


def _task_rows(recipe: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    for key, task in recipe.get("tasks", {}).items():
        shards = task.get("data", {}).get("shards", "")
        yield key, _method(key, task), f"`{shards}`", _licence_of(str(shards))


def _licence_of(shards: str) -> str:
    """Returns the licence of a set that mmssl knows, by the names of folders and files."""
    for name in names.list_names("datasets"):
        if re.search(rf"\b{re.escape(name)}\b", shards):
            return str(read_yaml(names.home("datasets") / name / "card.yaml").get("licence", "not said"))
    return "not said"


def _figure_rows(folder: Path) -> Iterator[tuple[object, ...]]:
    for key, score in read_scores(folder).items():
        yield key, f"{score.value:.4g}", f"{score.low:.4g} to {score.high:.4g}", f"{score.chance:.4g}", score.n


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
