"""Boxes of objects: filtered by hand, found by OpenCV on the same pixels, and moved with every view."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mmssl.errors import DamagedError, UserError
from mmssl.methods import soco
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.proposals import Proposals, selective_search

WIDE = Image.new("RGB", (200, 100), "gray")


def kept(*boxes: tuple[float, ...], **options: Any) -> list[list[float]]:
    return Proposals(by="given", **options).make(WIDE, boxes).tolist()


def test_boxes_of_an_objects_shape_and_size_are_kept() -> None:
    """Of 200 x 100 pixels: the root of the area from 0.3 to 0.8 of 141.4, sides up to 1:3, 32 pixels at least."""
    right = [[0, 0, 96, 32], [10, 10, 60, 60], [0, 0, 127, 100]]
    small, large, flat, thin = (5, 5, 47, 47), (0, 0, 130, 100), (0, 0, 100, 33), (0, 0, 75, 31)
    assert kept(*right, small, large, flat, thin) == right
    assert kept(flat, thin, small, ratio=4, min_side=30, size=(0.2, 0.8)) == [list(flat), list(thin), list(small)]
    assert kept((0, 0, 33, 100), (0, 0, 34, 100)) == [[0, 0, 34, 100]], "also when they are high"


def test_the_whole_image_stands_for_none() -> None:
    assert kept((0, 0, 10, 10)) == kept() == [[0, 0, 200, 100]]


def test_what_is_no_box_is_damaged_and_a_range_out_of_order_refused() -> None:
    with pytest.raises(DamagedError, match="boxes that are no rows of four numbers"):
        kept((1, 2, 3))
    with pytest.raises(UserError, match=r"proposals\.size is \(0\.9, 0\.2\)"):
        Proposals(size=(0.9, 0.2))


def scene() -> Image.Image:
    image = Image.new("RGB", (80, 60), (200, 200, 190))
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, 12, 40, 44), fill=(200, 30, 40))
    draw.ellipse((50, 20, 75, 45), fill=(30, 40, 200))
    return image


def test_selective_search_finds_what_lies_there() -> None:
    found = selective_search(scene())
    for box in ((10, 12, 41, 45), (50, 20, 76, 46)):
        assert np.abs(found - box).max(axis=1).min() <= 2, box
    assert (found[:, 2:] > found[:, :2]).all() and found.max() <= 80
    filtered = Proposals(size=(0.3, 0.8), min_side=20).make(scene(), None)
    assert 0 < len(filtered) < len(found)


def test_without_opencv_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"pip install 'mmssl\[proposals\]', or say proposals\.by=given"):
        selective_search(scene())


def test_a_samples_own_boxes_move_with_the_three_views_of_soco() -> None:
    options = {"proposals": {"by": "given", "min_side": 20}}
    view = soco.method.view({"image": ImagePreprocess(size=32)}, image=options)
    assert view.reads == ("image", "boxes") and view.aligned == {"boxes": "boxes"}
    random.seed(3)
    shown = view({"image": scene(), "boxes": [[10, 12, 41, 45], [0, 0, 5, 5], [50, 20, 76, 46]]})
    assert [x.shape[-1] for x in shown["image"]] == [32, 32, 16]
    for pixels, boxes in zip(shown["image"], shown["fields"]["image"]["boxes"], strict=True):
        assert boxes.lengths.tolist() == [2], "one is too small"
        for channel, (left, top, right, bottom) in zip((0, 2), boxes.values.round().int().tolist(), strict=True):
            inner = pixels[:, top:bottom, left:right].float()
            if inner.numel() > 30:  # where the crop shows it
                others = inner[[c for c in range(3) if c != channel]].mean()
                assert inner[channel].mean() > 100 + others, "the square is red, the ball blue"
    whole = shown["fields"]["image"]["boxes"][0].values
    torch.testing.assert_close(whole[:, 3] - whole[:, 1], torch.tensor([33.0, 26]) * 32 / 60)
    assert view.reads and soco.method.view({"image": ImagePreprocess(size=32)}).reads == ("image",)
