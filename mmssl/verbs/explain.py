"""Prints the options of a name."""

from __future__ import annotations

import argparse

from mmssl.console import ROOMS, Verbs, say


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("explain", help="print every option of what a name stands for, its variants and its recipes")
    p.add_argument(
        "name",
        metavar="NAME",
        help="a method, view, encoder, evaluation, optimizer or plot (`mmssl list`), such as moco:v2 or "
        "encoders/frames, or train, task or data: the nodes of a recipe",
    )
    p.add_argument("--room", choices=ROOMS, help="where it lies, where several have the name or it is your own code")
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> None:
    from mmssl.explain import explain

    say(explain(a.name, a.room))
