"""Writes captions for images."""

from __future__ import annotations

import argparse
import sys

from mmssl.console import Answer, Verbs, add_json, add_limits, add_trust, say


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("caption", help="write captions for an image, or a folder of images")
    p.add_argument("folder", metavar="RUN", help="a run with a task that writes captions, such as virtex")
    p.add_argument("images", metavar="PICTURE", help="an image, or a folder of images")
    p.add_argument("--task", help="which task of the run writes, where several do")
    p.add_argument("--beams", type=int, default=5, help="captions that are kept while one is written (default 5)")
    p.add_argument("--length", type=int, metavar="N", help="tokens of a caption at most (default: what the run reads)")
    p.add_argument("--batch-size", type=int, default=32, help="images at a time (default 32)")
    p.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default cpu)")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    add_json(p)
    add_trust(p)
    add_limits(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from mmssl.captioning import caption

    found = caption(
        a.folder,
        a.images,
        task=a.task,
        beams=a.beams,
        length=a.length,
        batch_size=a.batch_size,
        device=a.device,
        progress=not a.quiet,
        trust_code=a.trust_code,
    )
    for path, why in found.skipped.items():
        say(f"skipped {path}: {why}", file=sys.stderr)
    document = {
        "captions": [dict(zip(("image", "caption", "log_prob"), row, strict=True)) for row in found.rows],
        "skipped": found.skipped,
    }
    return Answer("\n".join(f"{path}\t{text}" for path, text, _ in found.rows), document)
