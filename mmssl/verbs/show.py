"""Prints a recipe."""

from __future__ import annotations

import argparse

from mmssl.console import Answer, Verbs, complete
from mmssl.names import recipe_names


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("show", help="print a shipped recipe")
    complete(p.add_argument("recipe", metavar="RECIPE", help="its name (`mmssl list configs`)"), recipe_names)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from mmssl.recipe import find

    return Answer(find(a.recipe).read_text(encoding="utf-8").rstrip("\n"))
