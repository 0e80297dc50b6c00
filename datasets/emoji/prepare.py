"""Makes shards of emoji and their names: prepare.py OUT --source TAR_OR_FOLDER."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from styles import STYLES, styled

from mmssl.data.user_files import read_files
from mmssl.data.writer import build_from, summary
from mmssl.errors import DamagedError, UserError
from mmssl.modalities import image

Row = dict[str, str]
WORD = re.compile(r"[^\W_]+")
PEOPLE = re.compile(r"\b(man|woman|men|women|person|people|boy|girl)\b")
LARGEST = 10  # variants; a larger family stays in train, or it alone would decide what test measures
TONES = re.compile(r"\b(medium-light|medium-dark|medium|light|dark) skin tone\b")


def main(arguments: list[str] | None = None) -> int:
    """Writes a folder for each split; an interrupted run continues where it stopped."""
    options = parser().parse_args(arguments)
    try:
        for name in ("held_out", "validation"):
            if not 0 <= getattr(options, name) < 1 or options.held_out == 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(options, name):g}: expected a share below 1")
        rows, pictures = read(Path(options.source))
        for split, (chosen, style) in splits(rows, options).items():
            about = f"emoji {split}: {options.held_out:g} held out by seed {options.seed}"
            out = Path(options.out) / split
            samples = Samples(chosen, pictures, style)
            index = build_from(samples, len(chosen), out, workers=1, description=about)
            print(f"{split}: {summary(index)}")
            if "_" not in split:
                names = "".join(f"{row['name']}\n" for row in chosen)
                (Path(options.out) / f"{split}_names.txt").write_text(names, encoding="utf-8")
    except UserError as error:
        print(f"emoji: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    command = argparse.ArgumentParser(description="Makes shards of emoji and their names.")
    command.add_argument("out", metavar="OUT", help="folder for the splits")
    command.add_argument("--source", required=True, metavar="PATH", help="tar or folder with pairs.csv and its PNGs")
    command.add_argument("--held-out", type=float, default=0.2, metavar="SHARE", help="for test (default 0.2)")
    command.add_argument(
        "--validation",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the rest, kept out of train to choose settings on, as the splits val and val_STYLE (default 0)",
    )
    command.add_argument("--seed", type=int, default=0, metavar="S", help="chooses what is held out (default 0)")
    return command


def read(source: Path) -> tuple[list[Row], dict[str, bytes]]:
    """Returns the table's rows and every image's bytes by file name."""
    files = read_files(source, expected="pairs.csv and the PNGs it names")
    if "pairs.csv" not in files:
        raise UserError(f"{source} has no pairs.csv; expected the columns file, name, keywords, group, subgroup")
    rows = list(csv.DictReader(files["pairs.csv"].decode("utf-8-sig").splitlines()))
    missing = {"file", "name", "keywords", "group", "subgroup"} - set(rows[0] if rows else ())
    if missing:
        raise UserError(f"{source}: pairs.csv lacks {', '.join(sorted(missing))}")
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise UserError(f"{source}: row {number} of pairs.csv has more or fewer cells than the header")
    return rows, files


def base(name: str) -> str:
    """Returns the name without what tells variants of one emoji apart: sex, skin tone, what follows a colon."""
    stem = TONES.sub("skin tone", name.lower()).partition(":")[0]
    return PEOPLE.sub("person", stem).strip()


def splits(rows: list[Row], options: argparse.Namespace) -> dict[str, tuple[list[Row], str | None]]:
    """Returns the rows of each split and the style of its pictures, None for their own."""
    test = chosen_of(rows, share=options.held_out, seed=options.seed)
    rest = [row for row in rows if row not in test]
    val = chosen_of(rest, share=options.validation, seed=options.seed + 1)
    train = [row for row in rest if row not in val]
    known = {word for row in train for word in words(row)}
    found: dict[str, tuple[list[Row], str | None]] = {"train": (train, None)}
    for split, held_out in (("test", test), ("val", val)):
        found[split] = (held_out, None)
        found[f"{split}_unseen"] = (
            [row for row in held_out if not known & set(WORD.findall(row["name"].lower()))],
            None,
        )
        found |= {f"{split}_{style}": (held_out, style) for style in STYLES}
    return {split: (chosen, style) for split, (chosen, style) in found.items() if chosen}


def chosen_of(rows: list[Row], *, share: float, seed: int) -> list[Row]:
    """Returns the rows that are held out."""
    held_out = choose(rows, share=share, seed=seed)
    return [row for row in rows if base(row["name"]) in held_out]


def words(row: Row) -> list[str]:
    """Returns every word of a row's captions."""
    keywords = [word for word in row["keywords"].split("|") if word]
    return WORD.findall(" ".join(captions(row["name"], keywords, row["subgroup"])).lower())


def choose(rows: list[Row], *, share: float, seed: int) -> set[str]:
    """Returns the base names to hold out: in the order of a seeded hash, as many as keep within the share."""
    sizes = Counter(base(row["name"]) for row in rows)
    left = share * len(rows)
    chosen = set()
    for name in sorted(sizes, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest()):
        if sizes[name] <= min(left, LARGEST):
            chosen.add(name)
            left -= sizes[name]
    return chosen


@dataclass
class Samples:
    """Makes the sample of a number: the image over white, in a style or its own, its name, and the rest as JSON."""

    rows: list[Row]
    pictures: dict[str, bytes] = field(repr=False)
    style: str | None = None

    def __call__(self, number: int) -> dict[str, bytes]:
        row = self.rows[number]
        if row["file"] not in self.pictures:
            raise DamagedError("an image that is not there", row["file"])
        white = image.pixels(image.decode(self.pictures[row["file"]], "png"))
        if self.style:
            white = styled(white, self.style, np.random.default_rng(list(f"{self.style} {row['name']}".encode())))
        keywords = [word for word in row["keywords"].split("|") if word]
        meta = {
            "file": row["file"],
            "name": row["name"],
            "keywords": keywords,
            "captions": captions(row["name"], keywords, row["subgroup"]),
            "group": row["group"],
            "subgroup": row["subgroup"],
        }
        return {
            "png": image.encode(white, format="png"),
            "txt": row["name"].encode(),
            "json": json.dumps(meta, ensure_ascii=False).encode(),
        }


def captions(name: str, keywords: list[str], subgroup: str) -> list[str]:
    """Returns paraphrases: the name, alone and with each keyword it does not contain, and the keywords without it.

    Those without the name keep a small set from being learnt by heart; the kind (animal mammal) ties like to like.
    """
    new = [word for word in keywords if word not in name.lower()]
    kind = subgroup.replace("-", " ")
    kinds = [f"{name}, {kind}", *(f"{word}, {kind}" for word in new)] if kind else []
    return [name, *(f"{name}, {word}" for word in new), *([", ".join(keywords)] if new else []), *kinds]


if __name__ == "__main__":
    sys.exit(main())
