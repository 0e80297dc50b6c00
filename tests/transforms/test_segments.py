"""Segments of an image: scikit-image's on the same pixels, rectangles by hand, and that they move with the views."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.segmentation import felzenszwalb

from mmssl.errors import UserError
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.transforms.segments import Felzenszwalb, Grid
from mmssl.views.template import Views

HALVES = Image.fromarray(np.repeat(np.repeat(np.array([[0, 90], [180, 255]], np.uint8), 20, 0), 30, 1)).convert("RGB")


def test_felzenszwalbs_are_scikit_images() -> None:
    made = Felzenszwalb(scale=20, sigma=0.3, min_size=7).make(HALVES, None)
    assert made.shape == (40, 60) and np.array_equal(made, felzenszwalb(np.asarray(HALVES), 20, 0.3, 7))
    assert 4 <= len(np.unique(made)) < len(np.unique(Felzenszwalb(scale=0.1, min_size=1).make(HALVES, None)))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8))
    default = felzenszwalb(np.asarray(noise.convert("RGB")), scale=1000, sigma=0.8, min_size=1000)
    assert np.array_equal(Felzenszwalb().make(noise, None), default), "as DetCon has it"


def test_a_grid_divides_both_edges() -> None:
    assert Grid(side=2).make(Image.new("L", (5, 3)), None).tolist() == [
        [0, 0, 0, 1, 1],
        [0, 0, 0, 1, 1],
        [2, 2, 2, 3, 3],
    ]
    assert Grid().make(HALVES, None).max() == 24


def test_without_scikit_image_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(UserError, match=r"needs scikit-image .* pip install 'mmssl\[regions\]', or say"):
        Felzenszwalb().make(HALVES, None)


@pytest.mark.parametrize("steps", [[Grid(side=2)], [Grid(side=3), Grid(side=2)]])
def test_a_made_mask_moves_with_every_view(steps: list[Grid]) -> None:
    view = Views(2, image=[*steps, Crop(scale=(0.2, 0.6)), Flip()])({"image": ImagePreprocess(size=16)})
    assert view.reads == ("image",) and view.aligned == {"mask": "mask"}, "it is not read of the sample"
    random.seed(1)
    shown = view({"image": HALVES, "mask": "what the sample holds"})
    for pixels, mask in zip(shown["image"], shown["fields"]["image"]["mask"], strict=True):
        gray = torch.tensor([0, 90, 180, 255])[mask]
        assert (pixels[0].long() - gray).abs().median() == 0 and len(mask.unique()) > 1
