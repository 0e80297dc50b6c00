"""Makes shards of PASCAL VOC 2007 and 2012: prepare.py OUT --source PATH."""

from __future__ import annotations

import json
import sys
from typing import Any
from xml.etree import ElementTree

from mmssl.data.listed import Fields, Listed, Row, lines, prepare
from mmssl.data.user_files import Files
from mmssl.errors import DamagedError

EXPECTED = "VOC2007/ and VOC2012/, as VOCdevkit has them"
# split -> year and list of each part
PARTS = {
    "train": (("2007", "Main/trainval"), ("2012", "Main/trainval")),
    "test": (("2007", "Main/test"),),
    "seg_train": (("2012", "Segmentation/train"),),
    "seg_val": (("2012", "Segmentation/val"),),
}


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train and OUT/test for detection, OUT/seg_train and OUT/seg_val for segmentation."""
    return prepare("voc07_12", find, about="PASCAL VOC 2007 and 2012", expected=EXPECTED, arguments=arguments)


def find(files: Files) -> dict[str, Listed]:
    """Returns the images of each split that there is."""
    homes = {path.split("/ImageSets/")[0] for path in files.names if "/ImageSets/" in f"/{path}"}
    found: dict[str, Listed] = {}
    for split, parts in PARTS.items():
        rows: list[Row] = []
        for year, part in parts:
            for home in sorted(home for home in homes if home.endswith(f"VOC{year}")):
                if f"{home}/ImageSets/{part}.txt" in files.names:
                    names = [line.split()[0] for line in lines(files, f"{home}/ImageSets/{part}.txt")]
                    rows += [row(home, year, name, segmented=split.startswith("seg")) for name in names]
        found[split] = Listed(rows, change=opened)
    return found


def row(home: str, year: str, name: str, *, segmented: bool) -> Row:
    """Returns the files of an image."""
    found: Row = {"__key__": f"{year}-{name}", "jpg": f"{home}/JPEGImages/{name}.jpg"}
    if segmented:
        return {**found, "mask.png": f"{home}/SegmentationClass/{name}.png"}
    return {**found, "txt": f"{home}/Annotations/{name}.xml"}


def opened(fields: Fields) -> Fields:
    """Turns an annotation, which is read as text, into annotations.json as COCO has them."""
    if "txt" not in fields:
        return fields
    notes = annotations(fields["txt"])
    classes = sorted({note["category"] for note in notes})
    told = {"annotations.json": json.dumps(notes).encode(), "json": json.dumps({"classes": classes}).encode()}
    return {"jpg": fields["jpg"], **told}


def annotations(data: bytes) -> list[dict[str, Any]]:
    """Returns the objects of an XML file; VOC counts pixels from 1, and boxes hold their last ones."""
    try:
        return [_annotation(thing) for thing in ElementTree.fromstring(data).iter("object")]
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
        raise DamagedError("an annotation that is not VOC's", str(error)) from None


def _annotation(thing: Any) -> dict[str, Any]:
    left, top, right, bottom = (float(thing.find(f"bndbox/{side}").text) for side in ("xmin", "ymin", "xmax", "ymax"))
    box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
    difficult = (thing.findtext("difficult") or "0").strip() == "1"
    return {
        "category": thing.find("name").text.strip(),
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": int(difficult),  # neither learnt nor judged
    }


if __name__ == "__main__":
    sys.exit(main())
