"""Judges a run, or any encoder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl.console import Answer, Verbs, add_json, add_limits, add_trust, plain
from mmssl.errors import UserError

if TYPE_CHECKING:
    from mmssl.types import Score


def add(verbs: Verbs) -> None:
    p = verbs.add_parser(
        "eval",
        help="judge a run by its recipe's evaluations, or any encoder on shards with labels",
        description="With --train and --data, judges any encoder by protocols that learn from labels; without, runs "
        "the evaluations of a run's recipe again.",
    )
    p.add_argument(
        "folder", metavar="PATH", help="a run; with --train also an encoder's folder, timm:NAME, a transformers folder"
    )
    p.add_argument("overrides", nargs="*", metavar="key=value", help="such as evals.knn.k=[5], or linear.solver=sgd")
    p.add_argument("--only", nargs="+", metavar="NAME", help="of the recipe's evaluations these only")
    p.add_argument("--train", metavar="SHARDS", help="labelled shards to learn from")
    p.add_argument("--data", metavar="SHARDS", help="labelled shards to judge on")
    p.add_argument("--protocol", metavar="NAMES", help="evaluations, with commas between (default knn,linear)")
    p.add_argument("--out", type=Path, help="JSON file for the figures (default eval.json in the folder)")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    add_json(p)
    add_trust(p)
    add_limits(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from mmssl.judge import NotJudged

    try:
        scores, file = _scores(a)
    except NotJudged as failed:
        return _answer(failed.scores, failed.file, a, error=str(failed))
    return _answer(scores, file, a)


def _scores(a: argparse.Namespace) -> tuple[Mapping[str, Score], Path]:
    """Returns the figures, and where they stand."""
    from mmssl.judge import evaluate, judge_encoder

    shared = {"progress": not a.quiet, "trust_code": a.trust_code}
    if not (a.train or a.data):
        if a.protocol or a.out:
            raise UserError("--protocol and --out go with --train SHARDS and --data SHARDS; say on what to judge")
        return evaluate(a.folder, a.overrides, evals=a.only, **shared), Path(a.folder) / "results.json"
    if not (a.train and a.data) or a.only:
        raise UserError("--train SHARDS and --data SHARDS go together, with --protocol in place of --only")
    protocols = (a.protocol or "knn,linear").split(",")
    return judge_encoder(a.folder, protocols, a.overrides, train=a.train, data=a.data, out=a.out, **shared)


def _answer(scores: Mapping[str, Score], file: Path, a: argparse.Namespace, *, error: str = "") -> Answer:
    from mmssl.judge import table

    lines = [*([table(scores)] if scores else []), *([f"written to {file}"] if a.train else [])]
    return Answer("\n".join(lines), {"file": str(file), "scores": plain(scores)}, 2 if error else 0, error)
