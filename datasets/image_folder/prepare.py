"""Makes shards of a folder of classes: prepare.py OUT --source FOLDER."""

from __future__ import annotations

import argparse
import sys

from mmssl.console import add_split
from mmssl.data.split import Split
from mmssl.data.writer import build_splits, summary
from mmssl.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Writes the shard set OUT; an interrupted run continues where it stopped."""
    command = argparse.ArgumentParser(description="Makes shards of a folder of classes.")
    command.add_argument("out", metavar="OUT", help="folder for the shards")
    command.add_argument("--source", required=True, metavar="FOLDER", help="CLASS/NAME.jpg, or files without classes")
    command.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    command.add_argument("--strict", action="store_true", help="stop at the first file that cannot be read")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of order and split (default 0)")
    add_split(command)
    options = command.parse_args(arguments)
    try:
        indexes = build_splits(
            options.source,
            options.out,
            Split.of(options),
            seed=options.seed,
            workers=options.workers,
            strict=options.strict,
        )
        for folder, index in indexes.items():
            print(f"{folder}: {summary(index)}")
    except UserError as error:
        print(f"image_folder: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
