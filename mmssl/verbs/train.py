"""Trains a recipe."""

from __future__ import annotations

import argparse

from mmssl.console import Verbs, add_limits, say


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("train", help="train a recipe")
    p.add_argument("recipe", help="a YAML file, or a shipped recipe's name (`mmssl list configs`)")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="such as optim.lr=3e-4")
    p.add_argument("--out", help="run folder (default runs/NAME)")
    p.add_argument("--resume", action="store_true", help="continue from the newest checkpoint that loads")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    add_limits(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> None:
    from mmssl.judge import read_scores, table
    from mmssl.loop import train

    folder = train(a.recipe, a.overrides, out=a.out, resume=a.resume, progress=not a.quiet)
    if scores := read_scores(folder):
        say(table(scores))
    say(f"run folder: {folder}")
