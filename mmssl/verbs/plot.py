"""Plots what a run has learnt."""

from __future__ import annotations

import argparse

from mmssl.console import Answer, Verbs, add_json, add_limits, add_trust, complete
from mmssl.names import list_names


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("plot", help="plot what a run has learnt (`mmssl list plots`)")
    p.add_argument("folder", metavar="RUN")
    complete(p.add_argument("kind", metavar="KIND"), lambda: list_names("plots"))
    p.add_argument("overrides", nargs="*", metavar="key=value", help="such as count=3 or data.shards=data/mine")
    p.add_argument("--out", help="folder for the plots (default RUN/plots/KIND)")
    add_json(p)
    add_trust(p)
    add_limits(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from mmssl.plot import plot

    paths = [str(path) for path in plot(a.folder, a.kind, a.overrides, out=a.out, trust_code=a.trust_code)]
    return Answer("\n".join(paths), {"plots": paths})
