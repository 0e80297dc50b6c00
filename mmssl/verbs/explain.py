"""Prints the options of a name."""

from __future__ import annotations

import argparse

from mmssl.console import Answer, Verbs, add_json, complete
from mmssl.names import EXPORTS, list_names


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("explain", help="print every option of what a name stands for, its variants and its recipes")
    name = p.add_argument(
        "name",
        metavar="NAME",
        help="a method, view, encoder, evaluation, optimizer or plot (`mmssl list`), such as moco:v2 or "
        "encoders/frames, or train, task or data: the nodes of a recipe",
    )
    complete(name, lambda: ["train", "task", "data", *(key for room in EXPORTS for key in list_names(room))])
    p.add_argument(
        "--room", choices=[*EXPORTS], help="where it lies, where several have the name or it is your own code"
    )
    add_json(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from mmssl.explain import explanation, told

    found = explanation(a.name, a.room)
    return Answer(told(found), found)
