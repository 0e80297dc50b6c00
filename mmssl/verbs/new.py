"""Copies a recipe into a file of one's own."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmssl.console import Answer, Verbs, complete
from mmssl.errors import UserError
from mmssl.names import recipe_names


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("new", help="copy a shipped recipe into a file to edit")
    complete(p.add_argument("recipe", metavar="RECIPE", help="its name (`mmssl list configs`)"), recipe_names)
    p.add_argument("file", metavar="FILE", type=Path, help="a new file, such as my.yaml")
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from mmssl.recipe import find

    data = find(a.recipe).read_bytes()
    try:
        with a.file.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise UserError(f"{a.file} is there already, and stays as it is; choose another name") from None
    return Answer(f"{a.file}: a copy of {a.recipe}; edit it, then: mmssl train {a.file}")
