"""Writes an encoder so that another library opens it."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmssl.console import Answer, Verbs, add_json, add_limits, add_trust

FORMATS = ("timm", "torchvision", "transformers", "open_clip", "onnx", "torch")


def add(verbs: Verbs) -> None:
    p = verbs.add_parser(
        "export", help="write an encoder for timm, torchvision, transformers, open_clip, ONNX or torch"
    )
    p.add_argument("path", metavar="ENCODER", help="an encoder's folder, RUN/encoders/KEY, or a run with one encoder")
    p.add_argument("out", metavar="OUT", help="a new folder")
    p.add_argument(
        "--format",
        required=True,
        choices=FORMATS,
        help="the library that opens it; torch is a program of torch.export; of a run, transformers and open_clip "
        "take the two encoders of --space",
    )
    p.add_argument("--space", metavar="TASK", help="the joint embedding of a task (clip) in place of the features")
    add_json(p)
    add_limits(p)
    add_trust(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    is_run = (Path(a.path) / "encoders").is_dir()
    if a.format == "open_clip" or (is_run and a.space and a.format == "transformers"):
        from mmssl.exports.clip import export_clip

        difference = export_clip(a.path, a.out, library=a.format, space=a.space, trust_code=a.trust_code)
        return _answer(a, difference)
    from mmssl.exports.checked import export
    from mmssl.exports.opened import open_one

    encoder = open_one(a.path, trust_code=a.trust_code)
    return _answer(a, export(encoder, a.out, format=a.format, space=a.space))


def _answer(a: argparse.Namespace, difference: float) -> Answer:
    from mmssl.exports.checked import TOLERANCE

    text = f"{a.out}: opened as {a.format}, its outputs differ by {difference:.2g} at most (allowed: {TOLERANCE:.0e})"
    return Answer(text, {"path": a.out, "format": a.format, "difference": difference, "allowed": TOLERANCE})
