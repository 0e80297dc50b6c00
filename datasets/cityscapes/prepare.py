"""Makes shards of Cityscapes: prepare.py OUT --source PATH."""

from __future__ import annotations

import sys

import numpy as np

from mmssl.data.listed import Fields, Listed, ending, numbers, png, prepare
from mmssl.data.user_files import Files

EXPECTED = "leftImg8bit/ and gtFine/, as Cityscapes has them"
VOID = 255
# The 19 classes that are judged, by their numbers among all; Cordts et al., CVPR 2016.
JUDGED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train and OUT/val."""
    return prepare("cityscapes", find, about="Cityscapes", expected=EXPECTED, arguments=arguments)


def find(files: Files) -> dict[str, Listed]:
    """Returns the images of each split with their masks."""
    masks = {name.rpartition("/")[2]: name for name, _ in ending(files, "_gtFine_labelIds.png")}
    found = {}
    for split in ("train", "val"):
        rows = []
        for name, start in ending(files, "_leftImg8bit.png"):
            key = start.rpartition("/")[2]
            mask = masks.get(f"{key}_gtFine_labelIds.png")
            if f"leftImg8bit/{split}/" in name and mask:
                rows.append({"__key__": key, "png": name, "mask.png": mask})
        found[split] = Listed(rows, change=classes)
    return found


def classes(fields: Fields) -> Fields:
    """Numbers the judged classes from 0, and the others 255."""
    table = np.full(256, VOID, np.uint8)
    table[list(JUDGED)] = np.arange(len(JUDGED))
    return {**fields, "mask.png": png(table[numbers(fields["mask.png"]).astype(np.uint8)])}


if __name__ == "__main__":
    sys.exit(main())
