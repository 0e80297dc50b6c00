"""Makes the toy world and trains on it."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmssl.console import Answer, Verbs, add_json, plain


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("demo", help="make the toy world, train on it, and print what was learnt")
    p.add_argument("--data", default="data/bounce", help="where the world's shards go (default data/bounce)")
    p.add_argument("--out", default="runs/demo", help="run folder (default runs/demo)")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="as in `mmssl train`")
    add_json(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from mmssl.demo import demo

    text, scores = demo(data=Path(a.data), out=Path(a.out), overrides=a.overrides)
    return Answer(text, {"run": a.out, "scores": plain(scores)})
