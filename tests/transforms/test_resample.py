"""Parts of a batch of images, cut and scaled on the device: torchvision and Pillow are the reference."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from mmssl.transforms import image
from mmssl.transforms.base import Frame, Frames
from mmssl.transforms.resample import resampled

WIDTH, HEIGHT, SIDE = 33, 40, 24
CPU = torch.device("cpu")


def drawn(count: int = 12, **options: float) -> Frames:
    torch.manual_seed(1)
    frames = Frames.like(Frame(WIDTH, HEIGHT, SIDE), count, CPU)
    image.Crop(scale=(0.05, 1.0), ratio=(0.4, 2.5)).draw_each(frames)
    image.Flip(**options).draw_each(frames)
    return frames


def noise(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_crop_is_that_of_torchvision(interpolation: str) -> None:
    frames, x = drawn(), noise(12)
    assert 0 < frames.mirrored.sum() < 12
    found = resampled(x, frames.place, SIDE, interpolation=interpolation, within=True)
    assert found.dtype == torch.uint8 and found.shape == (12, 3, SIDE, SIDE)
    for shown, whole, box, mirrored in zip(found, x, frames.box, frames.mirrored, strict=True):
        left, top, width, height = map(int, box)
        mode = InterpolationMode(interpolation)
        expected = reference.resized_crop(whole.double(), top, left, height, width, [SIDE, SIDE], mode, antialias=True)
        expected = expected.flip(2) if mirrored else expected
        assert (shown - expected.clamp(0, 255)).abs().max() <= 0.5 + 1e-3, "rounded, and nothing else"


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_a_part_that_is_not_cut_first_sees_beyond_its_edges_as_in_pillow(interpolation: str) -> None:
    """Pillow rounds between its two directions, so that smooth images and a tolerance are needed."""
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    array = np.stack([across * 7, down * 6, (across + down) * 3], axis=-1).astype(np.uint8)
    frames = drawn(8, p=0.0)
    frames.box = frames.box + torch.tensor([0.3, 0.4, -0.7, -0.6])
    x = torch.from_numpy(array).permute(2, 0, 1).expand(8, -1, -1, -1)
    found = resampled(x, frames.place, SIDE, interpolation=interpolation, within=False)
    for shown, (left, top, width, height) in zip(found, frames.box.tolist(), strict=True):
        box = (left, top, left + width, top + height)
        expected = Image.fromarray(array).resize((SIDE, SIDE), image.FILTERS[interpolation], box=box)
        assert (shown.int() - image.to_tensor(expected).int()).abs().max() <= 2


def test_colours_are_not_rounded_to_half_precision() -> None:
    frames, x = drawn(), noise(12)
    plain = resampled(x, frames.place, SIDE, interpolation="bicubic", within=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert resampled(x, frames.place, SIDE, interpolation="bicubic", within=True).equal(plain)


def test_frames_are_cut_and_mirrored_as_one_frame_is() -> None:
    """A second crop of a mirrored frame is counted from the other side, and a second mirror turns it back."""
    cuts = [(2.0, 3.0, 20.0, 30.0), (1.0, 4.0, 6.0, 10.0)]
    frames = Frames.like(Frame(WIDTH, HEIGHT, SIDE), 2, CPU)
    singles = [Frame(WIDTH, HEIGHT, SIDE) for _ in range(2)]
    for number, cut in enumerate(cuts):
        frames.cut(torch.tensor([cut, cut]))
        image.Flip(p=1.0).draw_each(frames)
        frames.mirrored = frames.mirrored & torch.tensor([True, number > 0])
        for frame, mirrored in zip(singles, (True, number > 0), strict=True):
            frame.cut(*cut)
            frame.mirrored = not frame.mirrored and mirrored
    for box, place, mirrored, frame in zip(frames.box, frames.place, frames.mirrored, singles, strict=True):
        assert tuple(box.tolist()) == frame.box and bool(mirrored) == frame.mirrored
        assert np.array_equal(place.numpy(), frame.place)


@pytest.mark.parametrize(
    ("sides", "scale", "ratio"),
    [((32, 32), (0.08, 1.0), (3 / 4, 4 / 3)), ((60, 20), (0.3, 0.9), (0.5, 1.25)), ((9, 31), (0.9, 1.0), (0.9, 1.1))],
)
def test_boxes_are_drawn_as_one_is(
    sides: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    """The first case is the usual one; in the second some boxes do not fit, in the third none ever does."""
    torch.manual_seed(0)
    random.seed(0)
    few, many = 6000, 60_000
    singles = np.array([image.random_box(*sides, scale=scale, ratio=ratio) for _ in range(few)], dtype=float)
    ends = (torch.full((many,), float(side)) for side in sides)
    boxes = image.random_boxes(*ends, scale=scale, ratio=ratio).double().numpy()
    assert np.array_equal(boxes, boxes.round()) and boxes[:, :2].min() >= 0 and boxes[:, 2:].min() >= 1
    assert ((boxes[:, :2] + boxes[:, 2:]).max(axis=0) <= sides).all()
    both = [np.c_[each, each[:, 2] * each[:, 3], each[:, 2] / each[:, 3]] for each in (singles, boxes)]
    for one, other in zip(both[0].T, both[1].T, strict=True):
        values = np.union1d(one, other)
        shares = [np.searchsorted(np.sort(each), values, side="right") / len(each) for each in (one, other)]
        apart = np.abs(shares[0] - shares[1]).max()
        assert apart < 1.95 * math.sqrt(1 / few + 1 / many), "two-sided Kolmogorov-Smirnov, one in a thousand"
