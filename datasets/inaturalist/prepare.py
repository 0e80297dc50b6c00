"""Makes shards of iNaturalist: prepare.py OUT --source PATH."""

from __future__ import annotations

import re
import sys

from mmssl.data.listed import Listed, labelled, prepare
from mmssl.data.user_files import Files

EXPECTED = "the images, train2018.json and val2018.json"


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train and OUT/val."""
    return prepare("inaturalist", find, about="iNaturalist", expected=EXPECTED, arguments=arguments)


def find(files: Files) -> dict[str, Listed]:
    """Returns the splits of which there is a list."""
    return {
        split: labelled(files, path)
        for split in ("train", "val")
        for path in files.names
        if re.fullmatch(rf"(?:.*/)?{split}\d{{4}}\.json", path)
    }


if __name__ == "__main__":
    sys.exit(main())
