"""Lists what there is by name."""

from __future__ import annotations

import argparse

from mmssl.console import Answer, Verbs, add_json, columns
from mmssl.names import EXPORTS, LISTED, list_names, list_variants, recipes


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("list", help="list what there is by name")
    p.add_argument("room", nargs="?", choices=[*LISTED], help="by default the rooms are listed")
    add_json(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    if a.room is None:
        after = "mmssl list ROOM lists what it holds; mmssl explain NAME lists the options of one"
        return Answer(f"{columns(LISTED)}\n\n{after}", LISTED)
    rows = _recipe_rows() if a.room == "configs" else _rows(a.room)
    return Answer(columns(rows), rows)


def _rows(room: str) -> dict[str, str]:
    """Returns a line for each name, and for each variant."""
    rows: dict[str, str] = {}
    for name, line in list_names(room).items():
        rows[name] = line
        rows |= {f"{name}:{key}": text for key, text in (list_variants(room, name) if room in EXPORTS else {}).items()}
    return rows


def _recipe_rows() -> dict[str, str]:
    """Returns a line for each recipe, with the methods and encoders that it names."""
    used = {key: [name for room, name in uses if room in ("methods", "encoders")] for key, uses in recipes().items()}
    return {name: f"{line} ({', '.join(used[name])})" for name, line in list_names("configs").items()}
