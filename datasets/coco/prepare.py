"""Makes shards of COCO: prepare.py OUT --source PATH."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from typing import Any

from mmssl.data.listed import Listed, Row, document, prepare
from mmssl.data.user_files import Files
from mmssl.errors import UserError

EXPECTED = "train2017/, val2017/ and annotations/instances_*.json, captions_*.json"


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train2017, OUT/val2017, or what other splits there are."""
    return prepare("coco", find, about="COCO, boxes, masks and captions", expected=EXPECTED, arguments=arguments)


def find(files: Files) -> dict[str, Listed]:
    """Returns the images of every split with their annotations."""
    lists: dict[str, dict[str, str]] = defaultdict(dict)
    for name in files.names:
        if told := re.fullmatch(r"(?:.*/)?(instances|captions)_(\w+)\.json", name):
            lists[told[2]][told[1]] = name
    return {split: Listed(rows(files, split, paths)) for split, paths in lists.items()}


def rows(files: Files, split: str, paths: dict[str, str]) -> list[Row]:
    """Returns the samples of a split whose files of annotations are these."""
    places = {name.rpartition("/")[2]: name for name in files.names if f"/{split}/" in f"/{name}"}
    told = {kind: document(files, path) for kind, path in paths.items()}
    try:
        things = by_image(told.get("instances", {}))
        captions = by_image(told.get("captions", {}))
        kinds = {kind["id"]: kind["name"] for kind in told.get("instances", {}).get("categories", ())}
        images = {found["id"]: found["file_name"] for one in told.values() for found in one["images"]}
        return [_row(places.get(file, file), number, things, captions, kinds) for number, file in images.items()]
    except (KeyError, TypeError) as error:
        raise UserError(f"{', '.join(paths.values())}: no annotations as COCO has them ({error!r})") from None


def by_image(told: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Returns the annotations of each image."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for note in told.get("annotations", ()):
        found[note["image_id"]].append(note)
    return found


def _row(place: str, number: int, things: Any, captions: Any, kinds: dict[int, str]) -> Row:
    told = [note["caption"].strip() for note in captions.get(number, ())]
    notes = [{"category": kinds[note["category_id"]], **kept(note)} for note in things.get(number, ())]
    row: Row = {
        "__key__": f"{number:012d}",
        "jpg": place,
        "annotations.json": json.dumps(notes).encode(),
        "json": json.dumps({"id": number, "captions": told}).encode(),
    }
    return {**row, "txt": told[0].encode()} if told else row


def kept(note: dict[str, Any]) -> dict[str, Any]:
    """Returns what of an annotation is written."""
    return {key: note[key] for key in ("category_id", "bbox", "segmentation", "area", "iscrowd") if key in note}


if __name__ == "__main__":
    sys.exit(main())
