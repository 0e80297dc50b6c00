"""Builds an index for approximate search."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmssl.console import Answer, Verbs, add_json, add_limits


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("index", help="build an index of faiss over features, to search millions of rows quickly")
    p.add_argument("features", metavar="FEATURES", type=Path, help="a file of `mmssl encode`; searched as it is, too")
    p.add_argument("out", metavar="OUT", type=Path, help="file that ends in .faiss")
    p.add_argument("--kind", choices=("hnsw", "ivf"), default="hnsw", help="hnsw finds more, ivf is built faster")
    p.add_argument("--lists", type=int, help="of ivf (default: 4 times the square root of the rows)")
    add_json(p)
    add_limits(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from mmssl.errors import UserError
    from mmssl.features.ann import build_index
    from mmssl.features.files import read_features

    if a.lists is not None and a.kind != "ivf":
        raise UserError("--lists goes with --kind ivf; hnsw has none")
    table = read_features(a.features)
    build_index(a.features, table, a.out, kind=a.kind, lists=a.lists)
    text = f"{a.out}: {a.kind} over {len(table.names)} rows; `mmssl search {a.out} QUERY` searches it"
    return Answer(text, {"path": str(a.out), "kind": a.kind, "rows": len(table.names)})
