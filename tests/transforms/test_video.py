"""Which frames of a clip are shown, and where they are cut."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.errors import UserError
from mmssl.modalities.video import Frames
from mmssl.transforms import video
from mmssl.transforms.image import Crop
from mmssl.transforms.video import VideoPreprocess
from mmssl.views.template import Views


def places(height: int, width: int, count: int = 1) -> np.ndarray:
    """Images (T, H, W, 3) whose red tells the column, green the row, and blue the time."""
    shown = np.zeros((count, height, width, 3), np.uint8)
    shown[..., 0] = np.arange(width)
    shown[..., 1] = np.arange(height)[:, None]
    shown[..., 2] = np.arange(count)[:, None, None]
    return shown


class Asked(Frames):
    """Notes how large the images are wanted."""

    def frames(self, times: Sequence[float], *, min_size: int | None = None) -> np.ndarray:
        object.__setattr__(self, "asked", (list(times), min_size))
        return super().frames(times)


def test_defaults() -> None:
    prepare = VideoPreprocess()
    assert prepare.config() == {"size": 112, "frames": 16, "fps": None, "seconds": None}
    assert prepare.modality == "video"
    blank = VideoPreprocess(6, frames=2).blank()
    assert blank.equal(torch.zeros(3, 2, 6, 6, dtype=torch.uint8))
    assert blank.dtype == torch.uint8


@pytest.mark.parametrize(
    ("options", "span", "expected"),
    [
        ({}, None, [0.5, 1.5, 2.5, 3.5]),
        ({"fps": 8.0}, 0.5, [1.75 + 0.0625, 1.75 + 0.1875, 1.75 + 0.3125, 1.75 + 0.4375]),
        ({"seconds": 2.0}, 2.0, [1.25, 1.75, 2.25, 2.75]),
        ({"seconds": 8.0}, 8.0, [1.0, 3.0, 5.0, 7.0]),
    ],
)
def test_pictures_are_taken_in_the_middle_of_equal_parts(
    options: dict[str, float], span: float | None, expected: list[float]
) -> None:
    prepare = VideoPreprocess(4, frames=4, **options)  # type: ignore[arg-type]
    clip = Asked(places(8, 8, 40), 10.0)
    prepare(clip)
    assert prepare.span == span
    times, smallest = clip.asked  # type: ignore[attr-defined]
    assert times == pytest.approx(expected)
    assert smallest == 4
    step = expected[1] - expected[0]
    for start in (1.0, 0.0, -1.0):
        assert prepare.times(clip, start) == pytest.approx([max(start, 0) + (i + 0.5) * step for i in range(4)])


def test_a_window_is_given_once() -> None:
    for options in ({"fps": 2.0}, {"seconds": 2.0}):
        VideoPreprocess(4, **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="by fps or by seconds, not by both"):
        VideoPreprocess(4, fps=2.0, seconds=2.0)


@pytest.mark.parametrize(
    ("height", "width", "top", "left"), [(8, 13, 0, 2), (13, 8, 2, 0), (8, 12, 0, 2), (5, 5, 0, 0)]
)
def test_the_middle_square_is_shown(height: int, width: int, top: int, left: int) -> None:
    side = min(height, width)
    cut = video.centre_square(places(height, width, 3))
    assert cut.shape == (3, side, side, 3)
    assert (cut[..., 0] == np.arange(left, left + side)).all()
    assert (cut[..., 1] == np.arange(top, top + side)[:, None]).all()
    shown = VideoPreprocess(side, frames=3)(places(height, width, 3))
    assert shown.permute(1, 2, 3, 0).numpy().tolist() == cut.tolist()
    assert shown.is_contiguous()


@pytest.mark.parametrize("way", ["bilinear", "bicubic", "nearest"])
def test_scaling_is_pils(way: Any) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (2, 9, 7, 3), dtype=np.uint8)
    found = video.resized(pictures, 5, interpolation=way)
    filter_ = Image.Resampling[way.upper()]
    expected = np.stack([np.asarray(Image.fromarray(p).resize((5, 5), filter_)) for p in pictures])
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= (0 if way == "nearest" else 2)
    if way == "bilinear":
        assert np.array_equal(video.resized(pictures, 5), found), "the default"
    square = pictures[:, :7]
    assert video.resized(square, 7) is square
    assert video.resized(pictures, 9).shape == (2, 9, 9, 3)


def cropped(clip: Frames, size: int, **options: Any) -> np.ndarray:
    """Returns a random crop of all images of a clip: (T, size, size, 3)."""
    made = Views(1, video=[Crop(**options)])({"video": VideoPreprocess(size, frames=len(clip.pictures))})
    found: np.ndarray = made({"video": clip})["video"][0].permute(1, 2, 3, 0).numpy()
    return found


def test_a_crop_is_one_box_of_all_pictures() -> None:
    """The box is read off the image: at its own size nothing is interpolated."""
    clip, starts = Frames(places(40, 40, 3), 3.0), set()
    for _ in range(300):
        cut = cropped(clip, 20, scale=(0.25, 0.25), ratio=(1.0, 1.0))
        assert cut.shape == (3, 20, 20, 3)
        assert cut[:, 0, 0, 2].tolist() == [0, 1, 2]
        left, top = (int(cut[0, 0, 0, channel]) for channel in (0, 1))
        assert (cut[..., 0] == np.arange(left, left + 20)).all()
        assert (cut[..., 1] == np.arange(top, top + 20)[:, None]).all()
        starts.add((left, top))
    for axis in (0, 1):
        assert {start[axis] for start in starts} == set(range(21)), "anywhere"
    assert len({left - top for left, top in starts}) > 20, "each on its own"


def box_of(cut: np.ndarray, size: int) -> tuple[float, float]:
    """Returns width and height of a box of `places` that was scaled, by how fast columns and rows go by."""
    inner = cut[0, 2:-2, 2:-2].astype(float)
    steps = inner[0, -1, 0] - inner[0, 0, 0], inner[-1, 0, 1] - inner[0, 0, 1]
    return tuple(step / (size - 5) * size for step in steps)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("options", "scale", "ratio"),
    [
        ({"scale": (0.5, 1.0)}, (0.5, 1.0), (3 / 4, 4 / 3)),
        ({"scale": (0.1, 0.3), "ratio": (1.5, 2.0)}, (0.1, 0.3), (1.5, 2.0)),
    ],
)
def test_crops_have_their_area_and_shape(options: Any, scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    clip = Frames(places(240, 250), 1.0)
    boxes = np.array([box_of(cropped(clip, 32, **options), 32) for _ in range(150)])
    area, shape = boxes[:, 0] * boxes[:, 1] / (240 * 250), boxes[:, 0] / boxes[:, 1]
    assert [area.min(), area.max()] == pytest.approx(scale, abs=0.05)
    assert [shape.min(), shape.max()] == pytest.approx(ratio, rel=0.06)


@pytest.mark.parametrize(
    ("scale", "ratio", "narrowest"),
    [
        ((0.25, 1.0), (1.0, 1.0), 0.5),
        ((0.5, 1.0), (0.5, 1.0), 0.5),
        ((0.5, 1.0), (1.0, 2.0), 0.5),
        ((0.5, 1.0), (0.5, 4.0), math.sqrt(0.125)),
        ((0.5, 1.0), (3 / 4, 4 / 3), math.sqrt(0.375)),
    ],
)
def test_pictures_are_decoded_no_larger_than_the_narrowest_box_needs(
    scale: tuple[float, float], ratio: tuple[float, float], narrowest: float
) -> None:
    clip = Asked(places(8, 8), 1.0)
    cropped(clip, 10, scale=scale, ratio=ratio)
    assert clip.asked == ([0.5], math.ceil(10 / narrowest))  # type: ignore[attr-defined]


def test_films_are_mirrored_left_and_right() -> None:
    flipped = video.flip(places(4, 6, 2))
    assert flipped[..., 0].tolist() == [[[5, 4, 3, 2, 1, 0]] * 4] * 2
    assert flipped[0, :, 0, 1].tolist() == [0, 1, 2, 3]
    assert flipped[:, 0, 0, 2].tolist() == [0, 1]
    assert flipped.flags["C_CONTIGUOUS"]


def test_channels_come_first() -> None:
    tensor = video.to_tensor(places(4, 6, 2))
    assert tensor.shape == (3, 2, 4, 6)
    assert tensor[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert tensor[1, 0, :, 0].tolist() == [0, 1, 2, 3]
    assert tensor[2, :, 0, 0].tolist() == [0, 1]


def test_one_or_several_clips() -> None:
    prepare = VideoPreprocess(6, frames=2)
    for several in (torch.zeros(2, 3, 5, 7, 9), np.zeros((2, 5, 7, 9, 3), np.uint8), ["a.mp4"] * 2):
        assert len(prepare.items(several)) == 2
    for one in (torch.zeros(3, 5, 7, 9), np.zeros((5, 7, 9, 3), np.uint8), "a.mp4"):
        assert len(prepare.items(one)) == 1


def test_crops_follow_the_seed() -> None:
    clip = Frames(places(40, 40), 1.0)
    random.seed(1)
    first = cropped(clip, 8)
    random.seed(1)
    assert np.array_equal(cropped(clip, 8), first)
