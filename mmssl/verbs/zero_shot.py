"""Classifies images by the names of classes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmssl.console import Answer, Verbs, add_json, add_limits, add_trust, complete, plain, say
from mmssl.evals.parts.templates import SETS


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("zero-shot", help="classify images by the names of classes")
    p.add_argument("folder", metavar="RUN")
    p.add_argument("--images", required=True, help="a folder of images, or shards")
    p.add_argument("--classes", required=True, help="a file with one class a line")
    about = f"a file with one prompt a line, {{}} where the class goes, or a set: {', '.join(SETS)} (default short)"
    complete(p.add_argument("--templates", metavar="FILE|SET", help=about), lambda: SETS, files=True)
    p.add_argument("--space", default="clip", help="the task whose embedding is used (default clip)")
    p.add_argument("--out", type=Path, help="write the predictions as CSV instead of printing them")
    add_json(p)
    add_trust(p)
    add_limits(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from mmssl.classify import zero_shot
    from mmssl.judge import table

    found = zero_shot(a.folder, a.images, a.classes, a.templates, space=a.space, trust_code=a.trust_code)
    if a.out:
        found.write(a.out)
        lines = [f"{len(found.rows)} predictions written to {a.out}"]
    else:
        lines = [f"{key}\t{name}\t{similarity:.4f}" for key, name, similarity in found.rows]
    for line in (*(f"skipped {key}: {why}" for key, why in found.skipped), *found.notes):
        say(line, file=sys.stderr)
    document = {
        "predictions": [dict(zip(("image", "class", "similarity"), row, strict=True)) for row in found.rows],
        "skipped": dict(found.skipped),
        "notes": found.notes,
        "scores": plain(found.scores),
    }
    return Answer("\n".join([*lines, *([table(found.scores)] if found.scores else [])]), document)
