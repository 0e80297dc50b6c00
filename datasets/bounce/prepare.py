"""Makes the toy world as webdataset shards: prepare.py OUT [--train N --test N --size PIXELS --fps F --seed S]."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from factors import SPLITS
from sample import make

from mmssl.data.writer import build_from
from mmssl.errors import UserError

SHARD = 100  # samples; small, so that every core has work in every split


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train, OUT/test_seen and OUT/test_novel; an interrupted run continues where it stopped."""
    options = parser().parse_args(arguments)
    counts = {"train": options.train, "test_seen": options.test - options.test // 2, "test_novel": options.test // 2}
    try:
        check(options)
        for split in SPLITS:
            folder, count = Path(options.out) / split, counts[split]
            about = f"bounce {split}: {options.size} px, {options.fps:g} fps, seed {options.seed}"
            if count and not finished(folder, about, count):
                one = partial(make, split=split, seed=options.seed, size=options.size, fps=options.fps)
                build_from(one, count, folder, shard_samples=SHARD, workers=options.workers, description=about)
    except UserError as error:
        print(f"bounce: {error}", file=sys.stderr)
        return 2
    return 0


def finished(folder: Path, about: str, count: int) -> bool:
    """Tells whether a folder already holds exactly these samples."""
    index = folder / "index.json"
    if not index.exists():
        return False
    found = json.loads(index.read_text())
    return bool(found.get("description") == about and found.get("samples") == count)


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    command = argparse.ArgumentParser(description="Makes the toy world of bouncing solids as webdataset shards.")
    command.add_argument("out", metavar="OUT", help="folder for the splits train, test_seen and test_novel")
    command.add_argument("--train", type=int, default=2000, metavar="N", help="training samples (default 2000)")
    command.add_argument("--test", type=int, default=400, metavar="N", help="test samples, half unseen (default 400)")
    command.add_argument("--size", type=int, default=64, metavar="PIXELS", help="side of the video (default 64)")
    command.add_argument("--fps", type=float, default=12.5, metavar="F", help="images per second (default 12.5)")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="the world's seed (default 0)")
    command.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    return command


def check(options: argparse.Namespace) -> None:
    """Raises UserError for what cannot be made."""
    if not 32 <= options.size <= 512 or options.size % 4:
        raise UserError(f"--size {options.size}: expected a multiple of 4 between 32 and 512")
    if not 5 <= options.fps <= 60 or abs(options.fps * 2 - round(options.fps * 2)) > 1e-9:
        raise UserError(f"--fps {options.fps:g}: expected 5 to 60 in steps of a half, so that 2 s are whole images")
    if min(options.train, options.test, options.seed) < 0 or options.train + options.test == 0:
        raise UserError("--train, --test and --seed: expected numbers from 0, and at least one sample")


if __name__ == "__main__":
    sys.exit(main())
