"""Makes shards of a folder of classes: prepare.py OUT --source FOLDER."""

from __future__ import annotations

import argparse
import sys

from mmssl.data.writer import build, summary
from mmssl.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Writes the shard set OUT; an interrupted run continues where it stopped."""
    command = argparse.ArgumentParser(description="Makes shards of a folder of classes.")
    command.add_argument("out", metavar="OUT", help="folder for the shards")
    command.add_argument("--source", required=True, metavar="FOLDER", help="CLASS/NAME.jpg, or files without classes")
    command.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    command.add_argument("--strict", action="store_true", help="stop at the first file that cannot be read")
    options = command.parse_args(arguments)
    try:
        index = build(options.source, options.out, workers=options.workers, strict=options.strict)
        print(f"{options.out}: {summary(index)}")
    except UserError as error:
        print(f"image_folder: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
