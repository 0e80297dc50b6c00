"""Makes the toy world and trains on it."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmssl.console import Verbs


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("demo", help="make the toy world, train on it, and print what was learnt")
    p.add_argument("--data", default="data/bounce", help="where the world's shards go (default data/bounce)")
    p.add_argument("--out", default="runs/demo", help="run folder (default runs/demo)")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="as in `mmssl train`")
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> None:
    from mmssl.demo import demo

    demo(data=Path(a.data), out=Path(a.out), overrides=a.overrides)
