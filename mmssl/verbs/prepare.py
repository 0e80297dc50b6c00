"""Makes a dataset's shards."""

from __future__ import annotations

import argparse

from mmssl.console import Verbs


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("prepare", help="make a dataset's shards (`mmssl list datasets`)", add_help=False)
    p.add_argument("dataset")
    p.add_argument("rest", nargs=argparse.REMAINDER, help="given to the dataset's own prepare.py; try --help")
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> int:
    from mmssl.prepare import prepare

    return prepare(a.dataset, a.rest)
