"""Makes shards of ADE20K: prepare.py OUT --source PATH."""

from __future__ import annotations

import sys

import numpy as np

from mmssl.data.listed import Fields, Listed, numbers, png, prepare
from mmssl.data.user_files import Files

EXPECTED = "images/training, images/validation and annotations/ beside them, as ADEChallengeData2016 has them"
VOID = 255


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train and OUT/val."""
    return prepare("ade20k", find, about="ADE20K", expected=EXPECTED, arguments=arguments)


def find(files: Files) -> dict[str, Listed]:
    """Returns the images of each split with their masks."""
    found = {}
    for split, folder in (("train", "training"), ("val", "validation")):
        masks = {name.rpartition(".")[0]: name for name in files.names if f"annotations/{folder}/" in name}
        images = [name for name in files.names if f"images/{folder}/" in name]
        pairs = [(name, masks.get(name.replace("images/", "annotations/").rpartition(".")[0])) for name in images]
        rows = [{"__key__": stem(name), "jpg": name, "mask.png": mask} for name, mask in pairs if mask]
        found[split] = Listed(rows, change=classes)
    return found


def stem(name: str) -> str:
    """Returns a file's name without folder and extension."""
    return name.rpartition("/")[2].rpartition(".")[0]


def classes(fields: Fields) -> Fields:
    """Numbers the classes from 0, and what has none 255."""
    mask = numbers(fields["mask.png"]).astype(np.int64)
    return {**fields, "mask.png": png(np.where(mask == 0, VOID, mask - 1).astype(np.uint8))}


if __name__ == "__main__":
    sys.exit(main())
