"""Images with boxes and outlines as detectors see them, against pycocotools and by hand."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from mmssl.errors import DamagedError
from mmssl.evals.parts.boxes import Boxed, annotated, filled, lengths
from mmssl.transforms.image import ImagePreprocess


def thing(**changes: Any) -> dict[str, Any]:
    return {
        "category": "cat",
        "bbox": [8.0, 4.0, 16.0, 8.0],
        "segmentation": {"size": [20, 40], "counts": [800]},
        **changes,
    }


def view(**options: Any) -> Boxed:
    return Boxed(ImagePreprocess(size=20), **{"size": 20, "key": "notes", "categories": ["cat", 7], **options})


def test_images_are_shown_whole_and_boxes_move_with_them() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[4:12, 8:24] = 255
    inside = (pixels[..., 0] > 0).astype(np.uint8)
    counts = np.diff([0, *(np.flatnonzero(np.diff(inside.T.ravel())) + 1), inside.size]).tolist()
    notes = [
        thing(segmentation={"size": [20, 40], "counts": counts}),
        thing(category=7, iscrowd=1, bbox=[-4, 0, 8, 99]),
    ]
    notes = [{"category_id": note["category"], **note} for note in notes] + [thing(bbox=[50, 0, 4, 4])]
    for flip, left in ((0.0, 4), (1.0, 8)):
        shown = view(masks=True, flip=flip)({"image": pixels, "notes": notes})
        (x,), fields = shown["image"], {name: rows[0].values for name, rows in shown["fields"]["image"].items()}
        assert x.shape == (3, 20, 20) and not x[:, 10:].any(), "black below"
        assert fields["boxes"][0].tolist() == [left, 2, left + 8, 6], "half the size"
        mine = torch.zeros(20, 20)
        mine[2:6, left : left + 8] = 1
        assert torch.equal(fields["masks"][0].float(), mine) and x[0, 3, left + 3] > 200
        assert fields["labels"].tolist() == [1, 2] and fields["crowd"].tolist() == [False, True]
        assert fields["boxes"][1].tolist() == [[0, 0, 2, 10], [18, 0, 20, 10]][int(flip)], "cut at the edge"
    empty = view()({"image": pixels, "notes": []})
    assert empty["fields"]["image"]["boxes"][0].values.shape == (0, 4) and "masks" not in empty["fields"]["image"]
    assert view().reads == ("image", "notes")


def test_outlines_are_those_of_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.asfortranarray(np.random.default_rng(0).random((13, 29)) < 0.4, np.uint8)
    mask[2:9, 3:20] = 1
    packed = coco.encode(mask)["counts"].decode()
    assert np.array_equal(filled({"size": [13, 29], "counts": packed}, 13, 29), mask)
    assert sum(lengths(packed)) == 13 * 29
    polygons = [[1.5, 1.0, 20.0, 2.0, 10.0, 11.0], [22, 2, 28, 2, 28, 9, 22, 9]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of its decoder
        plain = coco.decode(coco.merge(coco.frPyObjects(polygons, 13, 29)))
    assert np.array_equal(filled(polygons, 13, 29), plain) and plain.any()
    assert filled([[-1e6, 0, 1e6, 0, 1e6, 12, 0, 12]], 13, 29).shape == (13, 29), "cut at the edge"


@pytest.mark.parametrize(
    "given",
    [{}, [3], [thing(category=None)], [thing(category=True)], [thing(bbox=[1, 2, 3])], [thing(bbox=[1, 2, 3, "4"])]],
)
def test_other_annotations_are_damaged(given: Any) -> None:
    with pytest.raises(DamagedError):
        annotated(given)


@pytest.mark.parametrize(
    "outline",
    [
        None,
        [],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, "6"]],
        {"size": [4, 5], "counts": [16]},
        {"size": [4, 4], "counts": [15]},
        {"size": [4, 4], "counts": [20, -4]},
        {"size": [4, 4], "counts": "~~~"},
        {"size": [4, 4], "counts": "o" * 20},
    ],
)
def test_other_outlines_are_damaged(outline: Any) -> None:
    with pytest.raises(DamagedError):
        filled(outline, 4, 4)
