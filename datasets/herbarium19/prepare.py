"""Makes shards of Herbarium 2019: prepare.py OUT --source PATH."""

from __future__ import annotations

import sys

from mmssl.data.listed import Listed, labelled, prepare
from mmssl.data.user_files import Files

EXPECTED = "the images, train.json and validation.json"


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train and OUT/val."""
    return prepare("herbarium19", find, about="Herbarium 2019", expected=EXPECTED, arguments=arguments)


def find(files: Files) -> dict[str, Listed]:
    """Returns the splits of which there is a list."""
    return {
        split: labelled(files, path)
        for split, end in (("train", "train.json"), ("val", "validation.json"))
        for path in files.names
        if path.rpartition("/")[2] == end
    }


if __name__ == "__main__":
    sys.exit(main())
