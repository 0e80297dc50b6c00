"""Masks of images and videos: which of several belongs to what is shown, and how it is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.errors import DamagedError
from mmssl.evals.parts.masked import VOID, _classes, prepared
from mmssl.modalities.video import Frames
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.video import VideoPreprocess


def film(count: int, fps: float, *, height: int = 4, width: int = 4) -> Frames:
    """Flat frames, each as bright as ten times its number."""
    level = np.arange(count, dtype=np.uint8)[:, None, None, None] * 10
    return Frames(np.broadcast_to(level, (count, height, width, 3)).copy(), fps)


def masks(count: int, *, height: int = 4, width: int = 4) -> np.ndarray:
    """Flat masks, each of the class of its number."""
    return np.broadcast_to(np.arange(count)[:, None, None], (count, height, width)).copy()


def test_frames_and_masks_are_of_one_moment() -> None:
    for options, times in (
        ({"frames": 4}, [1, 3, 5, 7]),  # the whole clip of a second
        ({"frames": 2, "seconds": 0.5}, [3, 5]),  # from 0.25 on
        ({"frames": 2, "fps": 4.0}, [3, 5]),
        ({"frames": 2, "seconds": 4.0}, [7, 7]),  # it lasts no longer than it does
    ):
        x, classes = prepared(VideoPreprocess(size=4, **options), film(8, 8.0), masks(8))
        assert x[0, :, 0, 0].tolist() == [10 * time for time in times]
        assert classes[:, 0, 0].tolist() == times and classes.dtype == torch.uint8
        assert classes.shape == (len(times), 4, 4)


def test_masks_may_be_fewer_than_frames() -> None:
    _, classes = prepared(VideoPreprocess(size=4, frames=4), film(8, 8.0), masks(2))
    assert classes[:, 0, 0].tolist() == [0, 0, 1, 1]


def test_masks_of_films_are_cut_to_the_square_and_keep_their_classes() -> None:
    given = np.zeros((1, 4, 8), np.uint8)
    given[:, :, 2:4], given[:, :, 4:6] = 9, 200
    _, classes = prepared(VideoPreprocess(size=8, frames=1), film(1, 1.0, width=8), given)
    assert classes[0].tolist() == [[9] * 4 + [200] * 4] * 8


def test_a_picture_has_the_mask_in_the_middle() -> None:
    for count, middle in ((5, 2), (4, 2), (1, 0)):
        _, classes = prepared(ImagePreprocess(size=4), film(5, 5.0), masks(count))
        assert classes.shape == (1, 4, 4) and classes.unique().tolist() == [middle]


def test_masks_of_pictures_are_scaled_without_new_classes() -> None:
    given = np.zeros((3, 3), np.uint8)
    given[:, 1], given[:, 2] = 100, 200
    x, classes = prepared(ImagePreprocess(size=9), np.repeat(given[..., None], 3, axis=2), given)
    assert classes.unique().tolist() == [0, 100, 200] and classes[0, 0].tolist() == [0] * 3 + [100] * 3 + [200] * 3
    assert len(x.unique()) > 3  # the image itself is smooth


def palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette(list(range(255, -1, -1)) * 3)
    return image


FLAT = np.array([[1, 0], [255, 7]])


@pytest.mark.parametrize(
    ("mask", "shape"),
    [
        (FLAT, (1, 2, 2)),
        (FLAT[None].repeat(3, 0), (3, 2, 2)),
        ({"anything": FLAT}, (1, 2, 2)),
        (Image.fromarray(FLAT.astype(np.uint8)), (1, 2, 2)),
        (palette(FLAT.astype(np.uint8)), (1, 2, 2)),
        (FLAT.tolist(), (1, 2, 2)),
        (FLAT.astype(np.uint16), (1, 2, 2)),
    ],
)
def test_masks_come_in_many_ways(mask: Any, shape: tuple[int, ...]) -> None:
    found = _classes(mask)
    assert found.dtype == np.uint8 and found.shape == shape and (found == FLAT).all()
    assert VOID == 255


def test_yes_and_no_are_classes() -> None:
    assert _classes(FLAT > 1).tolist() == [[[0, 0], [1, 1]]]


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        ({}, "masks that are not one array"),
        ({"a": FLAT, "b": FLAT}, "masks that are not one array: a, b"),
        (FLAT[0], r"masks that are not \(H, W\) or \(T, H, W\) whole numbers: int64 \(2,\)"),
        (FLAT[None, None], "masks that are not"),
        (FLAT.astype(float), "masks that are not .* float64"),
        (FLAT[:0], "masks that are not"),
        (FLAT - 1, "classes of pixels that are not from 0 to 255: -1 to 254"),
        (FLAT + 1, "classes of pixels that are not from 0 to 255: 1 to 256"),
    ],
)
def test_masks_that_are_none_are_damaged(mask: Any, told: str) -> None:
    with pytest.raises(DamagedError, match=told):
        _classes(mask)
