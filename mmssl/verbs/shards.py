"""Writes, checks and looks into shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmssl.console import Answer, Verbs, add_json, add_limits, add_split


def add(verbs: Verbs) -> None:
    p = verbs.add_parser("shards", help="write, check and look into shards")
    actions = p.add_subparsers(required=True, metavar="ACTION")
    build = actions.add_parser("build", help="make shards; an interrupted build goes on where it stopped")
    build.add_argument("source", help="a folder per class, a CSV/TSV/Parquet/JSONL manifest, or other shards")
    build.add_argument("out", help="folder for the shards and their index.json")
    build.add_argument("--shard-samples", type=int, default=1000, help="samples a shard at most (default 1000)")
    build.add_argument("--shard-mb", type=float, default=256, help="size of a shard at most (default 256)")
    build.add_argument(
        "--columns", "--column", nargs="+", action="extend", metavar="KEY=COLUMN", help="columns of a manifest"
    )
    build.add_argument("--shuffle", action=argparse.BooleanOptionalAction, help="default: all but shards")
    build.add_argument("--seed", type=int, default=0, help="of the shuffle and the split (default 0)")
    build.add_argument("--workers", type=int, help="processes (default: one a core)")
    build.add_argument("--strict", action="store_true", help="stop at the first unreadable file")
    add_json(build)
    add_split(build)
    _add_filters(build)
    add_limits(build)
    build.set_defaults(run=_run_build)
    for name, run, what in (
        ("verify", _run_verify, "check checksums and counts"),
        ("show", _run_show, "say what is in"),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("folder")
        add_json(action)
        add_limits(action)
        action.set_defaults(run=run)
        if name == "verify":
            action.add_argument("--decode", action="store_true", help="open every sample as well")


def _add_filters(build: argparse.ArgumentParser) -> None:
    """Adds what `mmssl.data.pair_filters.PairFilters.of` reads."""
    add = build.add_argument_group("filters of pairs of image and text (ALIGN's; docs/data.md)").add_argument
    add("--min-side", type=int, metavar="PIXELS", help="of the image's shorter side at least")
    add("--max-aspect", type=float, metavar="RATIO", help="its longer side is less than so many times the shorter")
    add("--max-texts", type=int, metavar="N", help="texts of one image file at most")
    add("--max-images", type=int, metavar="N", help="image files with the same text at most")
    add("--min-words", type=int, metavar="N", help="of a text at least")
    add("--max-words", type=int, metavar="N", help="of a text at most")
    add("--frequent", type=int, metavar="N", help="words and pairs of words must be among the N most frequent")


def _run_build(a: argparse.Namespace) -> Answer:
    from mmssl.data.manifest import parse_columns
    from mmssl.data.pair_filters import PairFilters
    from mmssl.data.split import Split
    from mmssl.data.writer import build_splits, summary

    indexes = build_splits(
        a.source,
        a.out,
        Split.of(a),
        columns=parse_columns(a.columns or ()),
        shuffle=a.shuffle,
        seed=a.seed,
        shard_samples=a.shard_samples,
        shard_mb=a.shard_mb,
        workers=a.workers,
        strict=a.strict,
        filters=PairFilters.of(a),
    )
    made = {str(folder): index for folder, index in indexes.items()}
    return Answer("\n".join(f"{folder}: {summary(index)}" for folder, index in made.items()), made)


def _run_verify(a: argparse.Namespace) -> Answer:
    from mmssl.data.index import INDEX
    from mmssl.data.writer import verify

    problems = verify(a.folder, decode=a.decode)
    indexed = (Path(a.folder) / INDEX).is_file()
    remark = "" if indexed else f"; without {INDEX} nothing tells whether any is missing"
    last = f"{len(problems)} problem{'s' * (len(problems) > 1)}" if problems else f"all shards are whole{remark}"
    return Answer("\n".join([*problems, last]), {"problems": problems, "indexed": indexed}, code=2 if problems else 0)


def _run_show(a: argparse.Namespace) -> Answer:
    from mmssl.data.verify import look, told

    found = look(a.folder)
    return Answer(told(found), found)
