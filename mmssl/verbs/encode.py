"""Writes the features of a user's data."""

from __future__ import annotations

import argparse
import sys

from mmssl.console import Answer, Verbs, add_json, add_limits, add_trust, say


def add(verbs: Verbs) -> None:
    p = verbs.add_parser(
        "encode",
        help="write the features of a folder, a table or shards into a file",
        description="An interrupted encode leaves OUT.part, and the same command goes on from there.",
    )
    p.add_argument("model", metavar="MODEL", help="a run, an encoder's folder, timm:NAME, a folder of transformers")
    p.add_argument("data", metavar="DATA", help="a folder of files or a file, a CSV/TSV/Parquet/JSONL table, or shards")
    p.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.fields.image=thumb.jpg, model.X=...")
    p.add_argument("--out", required=True, help="file that ends in .npy, .csv, .parquet or .safetensors")
    p.add_argument("--space", help="the task whose joint embedding is written, such as clip (default: pooled features)")
    p.add_argument("--encoder", metavar="KEY", help="which encoder, where a run has several that could read the data")
    p.add_argument("--window", type=float, metavar="S", help="cut films and sounds into windows of S seconds")
    p.add_argument("--stride", type=float, metavar="S", help="seconds from window to window (default: the window)")
    p.add_argument("--columns", "--column", nargs="+", action="extend", metavar="KEY=COLUMN", help="columns of a table")
    p.add_argument("--batch-size", type=int, default=64, help="samples or windows of one pass (default 64)")
    p.add_argument("--workers", type=int, default=2, help="data processes, 0 for none (default 2)")
    p.add_argument("--device", help="cpu, cuda or cuda:1 (default: cuda where there is one)")
    add_json(p)
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    add_trust(p)
    add_limits(p)
    p.set_defaults(run=run)


def run(a: argparse.Namespace) -> Answer:
    from mmssl import recipe
    from mmssl.data.manifest import parse_columns
    from mmssl.errors import UserError, did_you_mean
    from mmssl.features.encode import encode_data
    from mmssl.loading import MODEL

    tree: dict[str, object] = {}
    for change in a.overrides:
        recipe.override(tree, change)
    if unknown := sorted(set(tree) - {MODEL, "data"}):
        raise UserError(f"`mmssl encode` has no option {unknown[0]!r}; {did_you_mean(unknown[0], (MODEL, 'data'))}")
    data = tree.get("data") or {}
    if not isinstance(data, dict) or set(data) - {"fields"}:
        raise UserError("of the data `mmssl encode` takes data.fields alone, such as data.fields.image=thumb.jpg")
    found = encode_data(
        a.model,
        a.data,
        a.out,
        space=a.space,
        encoder=a.encoder,
        window=a.window,
        stride=a.stride,
        columns=parse_columns(a.columns or ()),
        fields=data.get("fields"),
        options=tree.get(MODEL),  # type: ignore[arg-type]
        batch_size=a.batch_size,
        workers=a.workers,
        device=a.device,
        trust_code=a.trust_code,
        progress=not a.quiet,
    )
    for note in found.notes:
        say(note, file=sys.stderr)
    document = {"path": str(found.path), "rows": found.rows, "dim": found.dim, "skipped": found.skipped}
    return Answer(found.summary(), document)
