"""Plots what a run has learnt."""

from __future__ import annotations

import argparse

from mmssl.console import Verbs, add_limits, add_trust, say


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("plot", help="plot what a run has learnt (`mmssl list plots`)")
    p.add_argument("folder", metavar="RUN")
    p.add_argument("kind", metavar="KIND")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="such as count=3 or data.shards=data/mine")
    p.add_argument("--out", help="folder for the plots (default RUN/plots/KIND)")
    add_trust(p)
    add_limits(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> None:
    from mmssl.plot import plot

    for path in plot(a.folder, a.kind, a.overrides, out=a.out, trust_code=a.trust_code):
        say(path)
