"""Makes shards of NYU Depth v2: prepare.py OUT --source PATH."""

from __future__ import annotations

import sys

from mmssl.data.listed import Listed, ending, extension, lines, prepare
from mmssl.data.user_files import Files

EXPECTED = "images/NAME.png, normals/NAME.png and what else is listed on the card, and train.txt, test.txt"
BESIDE = {"normals": "normals.png", "depth": "depth.png", "labels": "mask.png"}


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train and OUT/test."""
    return prepare("nyuv2", find, about="NYU Depth v2", expected=EXPECTED, arguments=arguments)


def find(files: Files) -> dict[str, Listed]:
    """Returns the images that each list names, with what lies in the folders beside them."""
    found, known = {}, set(files.names)
    for split in ("train", "test"):
        for path, home in ending(files, f"{split}.txt"):
            wanted = {line.strip() for line in lines(files, path)}
            rows = []
            for name in files.names:
                folder, stem = f"{home}images/", name.rpartition("/")[2].rpartition(".")[0]
                if name.startswith(folder) and stem in wanted:
                    others = {field: f"{home}{part}/{stem}.png" for part, field in BESIDE.items()}
                    there = {field: place for field, place in others.items() if place in known}
                    rows.append({"__key__": stem, extension(name): name, **there})
            found[split] = Listed(rows)
    return found


if __name__ == "__main__":
    sys.exit(main())
