"""Lists what there is by name."""

from __future__ import annotations

import argparse

from mmssl.console import ROOMS, Verbs, say


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("list", help="list what there is by name")
    p.add_argument("room", choices=(*ROOMS, "datasets", "configs"))
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> None:
    rows = _recipe_rows() if a.room == "configs" else _rows(a.room)
    width = max(map(len, rows), default=0)
    for name, line in rows.items():
        say(f"{name:{width}}  {line}".rstrip())


def _rows(room: str) -> dict[str, str]:
    """Returns a line for each name, and for each variant."""
    from mmssl.names import EXPORTS, list_names, list_variants

    rows: dict[str, str] = {}
    for name, line in list_names(room).items():
        rows[name] = line
        rows |= {f"{name}:{key}": text for key, text in (list_variants(room, name) if room in EXPORTS else {}).items()}
    return rows


def _recipe_rows() -> dict[str, str]:
    """Returns a line for each recipe, with the methods and encoders that it names."""
    from mmssl.names import list_names, recipes

    used = {key: [name for room, name in uses if room in ("methods", "encoders")] for key, uses in recipes().items()}
    return {name: f"{line} ({', '.join(used[name])})" for name, line in list_names("configs").items()}
