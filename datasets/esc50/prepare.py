"""Makes shards of ESC-50, or of a set laid out like it: prepare.py OUT --source TAR_OR_FOLDER."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from mmssl.data.user_files import Files
from mmssl.data.writer import build_from, summary
from mmssl.errors import DamagedError, UserError
from mmssl.modalities import audio

Row = dict[str, str]
TABLE = "meta/esc50.csv"
EXPECTED = f"{TABLE} and audio/*.wav"


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/fold1 and so on; an interrupted run continues where it stopped."""
    options = parser().parse_args(arguments)
    try:
        if options.rate < 1000:
            raise UserError(f"--rate {options.rate}: expected a sampling rate in Hz, such as 16000")
        with contextlib.closing(Files(options.source, expected=EXPECTED)) as files:
            home, rows = read(files, esc10=options.esc10)
            for fold in sorted({row["fold"] for row in rows}):
                chosen = [row for row in rows if row["fold"] == fold]
                samples = Samples(chosen, files, home, options.rate)
                about = f"ESC-{10 if options.esc10 else 50} fold {fold}, {options.rate} Hz"
                out = Path(options.out) / f"fold{fold}"
                print(f"fold{fold}: {summary(build_from(samples, len(chosen), out, workers=1, description=about))}")
    except UserError as error:
        print(f"esc50: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    command = argparse.ArgumentParser(description="Makes shards of ESC-50, one set for each fold.")
    command.add_argument("out", metavar="OUT", help="folder for the folds")
    command.add_argument("--source", required=True, metavar="PATH", help=f"tar or folder with {EXPECTED}")
    command.add_argument("--esc10", action="store_true", help="only the ten classes of ESC-10")
    command.add_argument("--rate", type=int, default=16_000, metavar="HZ", help="of the sounds written (default 16000)")
    return command


def read(files: Files, *, esc10: bool) -> tuple[str, list[Row]]:
    """Returns the folder that the set lies in, "" or one with a slash at its end, and the table's rows in order."""
    places = [name.removesuffix(TABLE) for name in files.names if name == TABLE or name.endswith(f"/{TABLE}")]
    if len(places) != 1:
        raise UserError(f"{files.source} has {len(places)} tables {TABLE}; expected one, and audio/*.wav beside it")
    rows = list(csv.DictReader(files.read(places[0] + TABLE).decode("utf-8-sig").splitlines()))
    missing = {"filename", "fold", "category", *(["esc10"] if esc10 else [])} - set(rows[0] if rows else ())
    if missing:
        raise UserError(f"{files.source}: {TABLE} lacks the columns {', '.join(sorted(missing))}")
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values() or not row["fold"].isdigit():
            raise UserError(f"{files.source}: row {number} of {TABLE} has no number for a fold, or lacks a cell")
    return places[0], [row for row in rows if not esc10 or row["esc10"].strip().lower() == "true"]


@dataclass
class Samples:
    """Makes the sample of a number: the sound at the rate, and what the table says of it."""

    rows: list[Row]
    files: Files
    home: str
    rate: int

    def __call__(self, number: int) -> dict[str, bytes]:
        row = self.rows[number]
        name = f"{self.home}audio/{row['filename']}"
        if name not in self.files.names:
            raise DamagedError("a sound that is not there", name)
        sound = audio.decode(self.files.read(name), "wav").read(sample_rate=self.rate)
        meta = {"file": row["filename"], "category": row["category"], "fold": int(row["fold"])}
        return {"wav": audio.encode(sound, sample_rate=self.rate), "json": json.dumps(meta).encode()}


if __name__ == "__main__":
    sys.exit(main())
