"""Trains a recipe."""

from __future__ import annotations

import argparse

from mmssl.console import Answer, Verbs, add_json, add_limits, complete, keep_memory, plain
from mmssl.names import recipe_names


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("train", help="train a recipe")
    recipe = p.add_argument("recipe", help="a YAML file, or a shipped recipe's name (`mmssl list configs`)")
    complete(recipe, recipe_names, files=True)
    p.add_argument("overrides", nargs="*", metavar="key=value", help="such as optim.lr=3e-4")
    p.add_argument("--out", help="run folder (default runs/NAME)")
    p.add_argument("--resume", action="store_true", help="continue from the newest checkpoint that loads")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    add_json(p)
    add_limits(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from mmssl.judge import NotJudged, read_scores, table
    from mmssl.loop import train

    keep_memory()
    error = ""
    try:
        folder = train(a.recipe, a.overrides, out=a.out, resume=a.resume, progress=not a.quiet)
    except NotJudged as failed:
        folder, error = failed.file.parent, str(failed)
    scores = read_scores(folder)
    lines = [*([table(scores)] if scores else []), f"run folder: {folder}"]
    return Answer("\n".join(lines), {"run": str(folder), "scores": plain(scores)}, 2 if error else 0, error)
