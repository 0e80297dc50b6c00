"""Finds near duplicates among features."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmssl.console import Answer, Verbs, add_json, add_limits


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("dedupe", help="find near duplicates among features: groups, and what to keep")
    p.add_argument("features", metavar="FEATURES", help="a file of `mmssl encode`")
    p.add_argument("--threshold", type=float, default=0.95, help="cosine from which two are the same (default 0.95)")
    p.add_argument("--out", type=Path, help="CSV for the groups, instead of printing them")
    p.add_argument("--keep", type=Path, help="file for the names of what to keep, one a line")
    add_json(p)
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    add_limits(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from mmssl.features.dedupe import near_duplicates
    from mmssl.features.files import read_features

    found = near_duplicates(read_features(a.features), a.threshold, progress=not a.quiet)
    if a.keep:
        found.write_keep(a.keep)
    if a.out:
        found.write_groups(a.out)
    lines = []
    for keep, rows in {} if a.out else found.groups().items():
        lines += [found.table.describe(keep)]
        lines += [f"  {found.similarity[row]:.4f}  {found.table.describe(row)}" for row in rows]
    return Answer("\n".join([*lines, found.summary()]), found.plain())
