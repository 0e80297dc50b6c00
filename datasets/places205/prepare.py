"""Makes shards of Places205: prepare.py OUT --source PATH."""

from __future__ import annotations

import json
import sys

from mmssl.data.listed import Listed, Row, ending, extension, lines, places_of, prepare
from mmssl.data.user_files import Files
from mmssl.errors import UserError

EXPECTED = "images256/ and train_places205.csv, val_places205.csv"


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train and OUT/val."""
    return prepare("places205", find, about="Places205", expected=EXPECTED, arguments=arguments)


def find(files: Files) -> dict[str, Listed]:
    """Returns the images that each list names, with the class that it tells."""
    told: dict[str, list[tuple[str, int]]] = {}
    for split in ("train", "val"):
        for path, _ in ending(files, f"{split}_places205.csv"):
            rows = [line.replace(",", " ").rsplit(maxsplit=1) for line in lines(files, path)]
            if any(len(row) != 2 or not row[1].isdigit() for row in rows):
                raise UserError(f"{path} has a line that is not the path of an image and a number")
            told[split] = [(name, int(number)) for name, number in rows]
    every = [row for rows in told.values() for row in rows]
    names = {number: name.rpartition("/")[0] for name, number in every}
    classes = [names.get(number, f"class {number}") for number in range(max(names, default=-1) + 1)]
    places = places_of(files, [name for name, _ in every])
    return {split: Listed([_row(*row, classes, places) for row in rows], classes) for split, rows in told.items()}


def _row(name: str, number: int, classes: list[str], places: dict[str, str]) -> Row:
    about = json.dumps({"file": name, "class": classes[number]}).encode()
    key = name.rpartition(".")[0].replace("/", "-").replace(".", "-")
    return {"__key__": key, extension(name): places.get(name, name), "cls": str(number).encode(), "json": about}


if __name__ == "__main__":
    sys.exit(main())
