"""Searches features by a text or a file."""

from __future__ import annotations

import argparse

from mmssl.console import Answer, Verbs, add_json, add_limits, add_trust


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("search", help="find the rows of features that are nearest to a text, a picture, a sound, ...")
    p.add_argument("index", metavar="INDEX", help="a file of `mmssl encode`, or of `mmssl index`")
    p.add_argument("query", metavar="QUERY", help="a text, or the path of an image, video, sound or cloud")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="model.X=... of a model made by name")
    p.add_argument("-k", type=int, default=10, help="how many (default 10)")
    p.add_argument("--model", help="what encodes the query (default: the run or folder that made the features)")
    p.add_argument("--encoder", metavar="KEY", help="which of its encoders, where several could read the query")
    p.add_argument("--effort", type=int, default=64, help="candidates that an index looks at (default 64)")
    add_json(p)
    add_trust(p)
    add_limits(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from mmssl import recipe
    from mmssl.errors import UserError
    from mmssl.features.search import search
    from mmssl.loading import MODEL

    tree: dict[str, object] = {}
    for change in a.overrides:
        recipe.override(tree, change)
    if unknown := sorted(set(tree) - {MODEL}):
        raise UserError(f"`mmssl search` has no option {unknown[0]!r}; of a model it takes {MODEL}.OPTION=VALUE")
    table, hits = search(
        a.index,
        a.query,
        k=a.k,
        model=a.model,
        encoder=a.encoder,
        options=tree.get(MODEL),  # type: ignore[arg-type]
        effort=a.effort,
        trust_code=a.trust_code,
    )
    document = [{**table.plain(hit.row), "similarity": round(hit.similarity, 6)} for hit in hits]
    return Answer("\n".join(f"{hit.similarity:.4f}  {table.describe(hit.row)}" for hit in hits), document)
