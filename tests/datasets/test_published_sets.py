"""Published sets in their official layouts, made up in small: what becomes of their labels."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from mmssl.data.shards import Source
from mmssl.names import home

JPG: Any = "a photograph"  # stands for one in layouts
VOC = """<annotation><object><name>dog</name><difficult>{}</difficult><bndbox><xmin>3</xmin><ymin>2</ymin><xmax>6</xmax>
<ymax>5</ymax></bndbox><part><name>head</name></part></object></annotation>"""
LIKE_COCO = {
    "images": [{"id": 7, "file_name": "pics/Aves/a.jpg"}, {"id": 9, "file_name": "pics/Fungi/b.jpg"}],
    "annotations": [{"image_id": 7, "category_id": 30}, {"image_id": 9, "category_id": 20}],
    "categories": [{"id": 30, "name": "wren"}, {"id": 20, "name": "amanita"}],
}
INSTANCES = {
    "images": [{"id": 4, "file_name": "000000000004.jpg"}, {"id": 5, "file_name": "000000000005.jpg"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 4,
            "category_id": 18,
            "bbox": [1, 2, 3, 4],
            "segmentation": [[1, 2, 4, 2, 4, 6]],
            "iscrowd": 0,
        }
    ],
    "categories": [{"id": 18, "name": "dog"}],
}
CAPTIONS = {
    "images": INSTANCES["images"],
    "annotations": [{"image_id": 4, "caption": "A dog. "}, {"image_id": 4, "caption": "Dog"}],
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "pass": {"0/ab.jpg": JPG, "1/cd.jpg": JPG, "readme.txt": "x"},
    "places205": {
        "lists/train_places205.csv": "a/abbey/x.jpg 0\nb/bar/y.jpg 1\n",
        "lists/val_places205.csv": "b/bar/z.jpg 1\n",
        **{f"deep/images256/{name}.jpg": JPG for name in ("a/abbey/x", "b/bar/y", "b/bar/z")},
    },
    "inaturalist": {"train2018.json": LIKE_COCO, "x/pics/Aves/a.jpg": JPG, "x/pics/Fungi/b.jpg": JPG},
    "herbarium19": {"validation.json": LIKE_COCO, "pics/Aves/a.jpg": JPG, "pics/Fungi/b.jpg": JPG},
    "ade20k": {
        "A/images/training/t.jpg": JPG,
        "A/annotations/training/t.png": np.array([[0, 1], [150, 2]], np.uint8),
        "A/images/validation/alone.jpg": JPG,
    },
    "cityscapes": {
        "leftImg8bit/val/bonn/bonn_1_leftImg8bit.png": np.zeros((2, 2, 3), np.uint8),
        "gtFine/val/bonn/bonn_1_gtFine_labelIds.png": np.array([[7, 33], [0, 26]], np.uint8),
    },
    "nyuv2": {
        "train.txt": "1\n",
        "test.txt": "2\n",
        "images/1.png": np.zeros((2, 2, 3), np.uint8),
        "images/2.png": np.zeros((2, 2, 3), np.uint8),
        "normals/1.png": np.full((2, 2, 3), 128, np.uint8),
        "labels/2.png": np.full((2, 2), 5, np.uint8),
    },
    "coco": {
        "annotations/instances_val2017.json": INSTANCES,
        "annotations/captions_val2017.json": CAPTIONS,
        "val2017/000000000004.jpg": JPG,
        "val2017/000000000005.jpg": JPG,
    },
    "voc07_12": {
        "kit/VOC2007/ImageSets/Main/trainval.txt": "000001\n",
        "kit/VOC2012/ImageSets/Main/trainval.txt": "2008_1\n",
        "kit/VOC2012/ImageSets/Segmentation/train.txt": "2008_1\n",
        "kit/VOC2007/JPEGImages/000001.jpg": JPG,
        "kit/VOC2012/JPEGImages/2008_1.jpg": JPG,
        "kit/VOC2007/Annotations/000001.xml": VOC.format(0),
        "kit/VOC2012/Annotations/2008_1.xml": VOC.format(1),
        "kit/VOC2012/SegmentationClass/2008_1.png": np.array([[0, 20], [255, 3]], np.uint8),
    },
}


def encoded(value: Any) -> bytes:
    stream = io.BytesIO()
    if value is JPG:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(stream, "JPEG")
    elif isinstance(value, np.ndarray):
        Image.fromarray(value).save(stream, "PNG")
    else:
        return (value if isinstance(value, str) else json.dumps(value)).encode()
    return stream.getvalue()


def made(script: Callable[[str], ModuleType], name: str, root: Path, changes: Mapping[str, Any] | None = None) -> Path:
    for path, value in {**LAYOUTS[name], **(changes or {})}.items():
        if value is not None:
            (root / "in" / path).parent.mkdir(parents=True, exist_ok=True)
            (root / "in" / path).write_bytes(encoded(value))
    (root / "in").mkdir(exist_ok=True)
    assert script(name).main([str(root / "out"), "--source", str(root / "in"), "--workers", "1"]) == 0
    return root / "out"


def samples(folder: Path, *keys: str) -> dict[str, dict[str, Any]]:
    return {sample["__key__"]: sample for sample in Source(shards=str(folder)).samples({"image", *keys})}


def values(mask: Any) -> list[list[int]]:
    return np.asarray(mask).tolist()


def test_classes_are_numbered_and_named(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    for name, split, labels in (("inaturalist", "train", [1, 0]), ("herbarium19", "val", [1, 0])):
        out = made(script, name, tmp_path / name)
        assert [sample["label"] for _, sample in sorted(samples(out / split, "label").items())] == labels
        assert json.loads((out / split / "index.json").read_text())["classes"] == ["amanita", "wren"]
    out = made(script, "places205", tmp_path / "places")
    found = samples(out / "train", "label", "meta")
    assert {key: (sample["label"], sample["meta"]["class"]) for key, sample in found.items()} == {
        "a-abbey-x": (0, "a/abbey"),
        "b-bar-y": (1, "b/bar"),
    }
    assert [*samples(out / "val", "label")] == ["b-bar-z"]
    assert len(samples(made(script, "pass", tmp_path / "pass") / "train")) == 2


def test_masks_are_numbered_as_they_are_judged(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    ade, city = (made(script, name, tmp_path / name) for name in ("ade20k", "cityscapes"))
    assert values(samples(ade / "train", "mask")["t"]["mask"]) == [[255, 0], [149, 1]]
    assert not (ade / "val").exists(), "its only image has no mask"
    assert values(samples(city / "val", "mask")["bonn_1"]["mask"]) == [[0, 18], [255, 13]]
    nyu = made(script, "nyuv2", tmp_path / "nyu")
    assert values(samples(nyu / "train", "normals")["1"]["normals"])[0][0] == [128] * 3
    assert values(samples(nyu / "test", "mask")["2"]["mask"]) == [[5, 5], [5, 5]]


def test_objects_are_annotated_as_coco_has_them(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    coco = samples(made(script, "coco", tmp_path / "coco") / "val2017", "annotations", "text", "meta")
    (note,) = coco["000000000004"]["annotations"]
    assert note["category"] == "dog" and note["bbox"] == [1, 2, 3, 4] and note["segmentation"] == [[1, 2, 4, 2, 4, 6]]
    assert coco["000000000004"]["text"] == "A dog." and coco["000000000004"]["meta"]["captions"] == ["A dog.", "Dog"]
    assert coco["000000000005"]["annotations"] == [] and "text" not in coco["000000000005"]
    out = made(script, "voc07_12", tmp_path / "voc")
    voc = samples(out / "train", "annotations", "meta")
    assert {key: sample["annotations"][0]["iscrowd"] for key, sample in voc.items()} == {
        "2007-000001": 0,
        "2012-2008_1": 1,
    }
    assert voc["2007-000001"]["annotations"][0]["bbox"] == [2, 1, 4, 4] and voc["2007-000001"]["meta"]["classes"] == [
        "dog"
    ]
    assert values(samples(out / "seg_train", "mask")["2012-2008_1"]["mask"]) == [[0, 20], [255, 3]]


def test_what_is_missing_is_counted_or_told(
    script: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = made(script, "coco", tmp_path / "a", {"val2017/000000000005.jpg": None})
    assert [*samples(out / "val2017")] == ["000000000004"]
    assert "a file that is not there" in capsys.readouterr().out
    voc = made(
        script, "voc07_12", tmp_path / "b", {"kit/VOC2007/Annotations/000001.xml": "<annotation><object/></annotation>"}
    )
    assert [*samples(voc / "train")] == ["2012-2008_1"] and "not VOC's" in capsys.readouterr().out
    for name in LAYOUTS:
        (tmp_path / name / "none").mkdir(parents=True)
        assert script(name).main([str(tmp_path / name / "out"), "--source", str(tmp_path / name / "none")]) == 2
        assert f"{name}: " in capsys.readouterr().err
    (tmp_path / "coco" / "none" / "instances_x.json").write_text("{}")
    assert script("coco").main([str(tmp_path / "coco" / "out"), "--source", str(tmp_path / "coco" / "none")]) == 2
    assert "no annotations as COCO has them" in capsys.readouterr().err


@pytest.mark.parametrize("name", LAYOUTS)
def test_cards_say_what_is_made(name: str) -> None:
    card = yaml.safe_load((home("datasets") / name / "card.yaml").read_text())
    assert {"about", "licence", "source", "columns", "splits", "size"} == set(card)
