"""Shards of a published set from its files in a tar or folder: what the prepare.py of such sets share."""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmssl import modalities
from mmssl.data.user_files import Files
from mmssl.data.writer import build_from, summary
from mmssl.errors import DamagedError, UserError
from mmssl.modalities import image

Row = dict[str, str | bytes]
"""A sample: field -> path of the file that it is, byte for byte, or bytes; and `__key__`."""
Fields = dict[str, bytes]
Change = Callable[[Fields], Fields]


@dataclass
class Listed:
    """A split: its samples, the names of the classes that `cls` numbers, and what is made of the files' bytes.

    change: a function of the module: a sample's fields -> the fields that are written.
    """

    rows: list[Row]
    classes: Sequence[str] = ()
    change: Change | None = None


def prepare(
    name: str,
    find: Callable[[Files], Mapping[str, Listed]],
    *,
    about: str,
    expected: str,
    arguments: list[str] | None = None,
) -> int:
    """Runs `prepare.py OUT --source PATH`: writes OUT/SPLIT of each split that `find` finds; returns the exit code.

    An interrupted run continues where it stopped. Samples are in an order drawn from a fixed seed.
    name: of the set. about: its line of help. expected: what the source holds, for help and messages.
    """
    command = argparse.ArgumentParser(description=f"Makes shards of {about}.")
    command.add_argument("out", metavar="OUT", help="folder for the splits")
    command.add_argument("--source", required=True, metavar="PATH", help=f"tar or folder with {expected}")
    command.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    options = command.parse_args(arguments)
    try:
        source = Path(options.source)
        with closing(Files(source, expected=expected)) as files:
            splits = {split: made for split, made in find(files).items() if made.rows}
        if not splits:
            raise UserError(f"{source} has nothing of {name}; expected {expected}")
        for split, listed in splits.items():
            random.Random(0).shuffle(listed.rows)
            index = build_from(
                Samples(source, expected, listed.rows, listed.change),
                len(listed.rows),
                Path(options.out) / split,
                workers=options.workers,
                description=f"{name} {split}",
                classes=listed.classes,
            )
            print(f"{split}: {summary(index)}")
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0


@dataclass
class Samples:
    """Makes the sample of a number; DamagedError for a file that is not there or cannot be opened."""

    source: Path
    expected: str
    rows: list[Row]
    change: Change | None = None

    def __call__(self, number: int) -> Fields:
        files, row = _files(self.source, self.expected), dict(self.rows[number])
        key = row.pop("__key__")
        made = {field: value if isinstance(value, bytes) else read(files, value) for field, value in row.items()}
        for field, value in made.items():
            modalities.decode(field, value)
        if self.change is not None:
            made = self.change(made)
        return {"__key__": key, **made}  # type: ignore[dict-item]


@cache
def _files(source: Path, expected: str) -> Files:
    return Files(source, expected=expected)  # a process looks through a folder once


def read(files: Files, path: str) -> bytes:
    """Returns a file's bytes; DamagedError where it is not there."""
    try:
        return files.read(path)
    except (KeyError, UserError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError("a file that is not there", path) from None


def document(files: Files, path: str) -> Any:
    """Returns a JSON file of a source; UserError where it is none."""
    try:
        return json.loads(files.read(path))
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); fetch it again") from None


def lines(files: Files, path: str) -> list[str]:
    """Returns the lines of a text file of a source that are not empty."""
    return [line for line in files.read(path).decode("utf-8", "replace").splitlines() if line.strip()]


def ending(files: Files, end: str) -> Iterator[tuple[str, str]]:
    """Yields each path that ends so, and what stands before the end."""
    yield from ((name, name.removesuffix(end)) for name in files.names if name.endswith(end))


def extension(path: str) -> str:
    """Returns the extension under which a file is written: `jpg` of photo.JPEG."""
    found = path.rpartition(".")[2].lower()
    return {"jpeg": "jpg"}.get(found, found)


def numbers(data: bytes) -> np.ndarray:
    """Returns the values of an image as they are stored: (H, W) of a mask."""
    return image.values(image.decode(data))


def png(values: np.ndarray) -> bytes:
    """Writes the values of a mask (H, W) uint8."""
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def labelled(files: Files, path: str) -> Listed:
    """Returns a split whose JSON lists images, annotations and categories as COCO does, one category an image.

    Files are found by their `file_name`, wherever in the source the folder that it begins with lies.
    """
    told = document(files, path)
    try:
        names = {kind["id"]: str(kind["name"]) for kind in told["categories"]}
        classes = sorted(set(names.values()))
        of = {note["image_id"]: names[note["category_id"]] for note in told["annotations"]}
        images = [(found["file_name"], of[found["id"]]) for found in told["images"] if found["id"] in of]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} has no images, annotations and categories as COCO has them ({error!r})") from None
    places = places_of(files, [name for name, _ in images])
    number = {name: place for place, name in enumerate(classes)}
    rows: list[Row] = []
    for place, (file, name) in enumerate(images):
        about = json.dumps({"file": file, "class": name}).encode()
        rows.append(
            {
                "__key__": f"{place:08d}",
                extension(file): places.get(file, file),
                "cls": str(number[name]).encode(),
                "json": about,
            }
        )
    return Listed(rows, classes)


def places_of(files: Files, wanted: Sequence[str]) -> dict[str, str]:
    """Returns where in a source the files lie whose paths are told from a folder of it on."""
    found: dict[str, str] = {}
    ends = set(wanted)
    for name in files.names:
        parts = name.split("/")
        for start in range(len(parts)):
            if (end := "/".join(parts[start:])) in ends:
                found.setdefault(end, name)
    return found
