"""Makes shards of PASS: prepare.py OUT --source PATH."""

from __future__ import annotations

import sys

from mmssl.data.listed import Listed, extension, prepare
from mmssl.data.user_files import Files

EXPECTED = "PASS's images, as its tars unpack them"


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train."""
    return prepare("pass", find, about="PASS, images without labels", expected=EXPECTED, arguments=arguments)


def find(files: Files) -> dict[str, Listed]:
    """Returns the one split, of all images."""
    images = [name for name in files.names if extension(name) in ("jpg", "png")]
    return {"train": Listed([{"__key__": f"{n:08d}", extension(name): name} for n, name in enumerate(images)])}


if __name__ == "__main__":
    sys.exit(main())
