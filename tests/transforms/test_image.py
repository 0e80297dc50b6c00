"""The boxes that are cut out of images: their area, their shape and where they lie."""

from __future__ import annotations

import math
import random
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from mmssl.errors import UserError
from mmssl.modalities.pixels import Pixels
from mmssl.modalities.video import Frames
from mmssl.transforms import image
from mmssl.transforms.base import Frame, chance, check_range
from mmssl.transforms.image import FILTERS, Crop, Flip, ImagePreprocess, Interpolation, framed, random_box


def cropped(picture: Image.Image, size: int, *, interpolation: Interpolation = "bicubic", **options: Any) -> np.ndarray:
    """Cuts an image as views do: a frame is drawn, and then applied; (size, size, 3)."""
    frame = Frame(*picture.size, size)
    Crop(**options).draw(frame)
    return framed(picture, frame, interpolation=interpolation).permute(1, 2, 0).numpy()


def places(height: int, width: int) -> Image.Image:
    """An image whose red tells the column and green the row."""
    shown = np.zeros((height, width, 3), np.uint8)
    shown[..., 0], shown[..., 1] = np.arange(width), np.arange(height)[:, None]
    return Image.fromarray(shown)


def uniform(values: Any, low: float, high: float) -> bool:
    """Tells whether the values fill the range evenly (Kolmogorov and Smirnov)."""
    return float(stats.kstest(values, "uniform", (low, high - low)).pvalue) > 1e-3


SHAPES = [((0.1, 0.4), (0.5, 2.0)), ((0.3, 0.35), (1.0, 1.2)), ((0.05, 0.14), (0.75, 4 / 3))]


@pytest.mark.parametrize(("scale", "ratio"), SHAPES)
def test_boxes_have_their_area_and_shape_and_lie_anywhere(
    scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    """Small enough that every box fits, so that none is drawn again."""
    width, height = 20_000, 18_000
    left, top, w, h = np.array([random_box(width, height, scale=scale, ratio=ratio) for _ in range(1500)]).T
    assert uniform(w * h / (width * height), *scale)
    assert uniform(np.log(w / h), *map(math.log, ratio)), "as likely wide as tall"
    assert abs(np.corrcoef(w * h, w / h)[0, 1]) < 0.1
    for at, room in ((left, width - w), (top, height - h)):
        assert uniform(at / room, 0, 1)
    assert abs(np.corrcoef(left, top)[0, 1]) < 0.1


def test_every_place_is_reached_and_no_other() -> None:
    found = {random_box(4, 5, scale=(0.2, 0.2), ratio=(1.0, 1.0)) for _ in range(300)}
    assert found == {(left, top, 2, 2) for left in range(3) for top in range(4)}


FALLBACK = [  # no box of this area and shape fits, so the largest that does is taken
    ((100, 10), (1.0, 1.0), (1.0, 1.0), (10, 10)),
    ((10, 100), (1.0, 1.0), (1.0, 1.0), (10, 10)),
    ((100, 10), (1.0, 1.0), (0.5, 2.0), (20, 10)),
    ((10, 100), (1.0, 1.0), (0.5, 2.0), (10, 20)),
    ((100, 80), (1.0, 1.0), (1.3, 1.5), (100, 77)),
    ((80, 100), (1.0, 1.0), (0.6, 0.7), (70, 100)),
    ((1000, 1), (0.9, 1.0), (0.1, 0.1), (1, 1)),
    ((1, 1000), (0.9, 1.0), (10.0, 10.0), (1, 1)),
    ((1, 1), (0.01, 0.01), (1.0, 1.0), (1, 1)),
]


@pytest.mark.parametrize(("size", "scale", "ratio", "expected"), FALLBACK)
def test_the_largest_box_is_cut_where_none_fits(
    size: tuple[int, int], scale: Any, ratio: Any, expected: tuple[int, int]
) -> None:
    found = [random_box(*size, scale=scale, ratio=ratio) for _ in range(200)]
    assert {box[2:] for box in found} == {expected}
    for axis in (0, 1):
        starts, room = {box[axis] for box in found}, size[axis] - expected[axis]
        assert min(starts) >= 0
        assert max(starts) <= room
        if room > 100:
            assert min(starts) < 0.1 * room
            assert max(starts) > 0.9 * room
        elif room < 10:
            assert starts == set(range(room + 1))


def test_ten_boxes_are_tried() -> None:
    """A quarter of the boxes drawn, those of 1/2 to 2 in width over height, fit; after ten the whole is taken."""
    found = [random_box(1000, 1000, scale=(0.5, 0.5), ratio=(1 / 16, 16.0)) for _ in range(6000)]
    assert sum(box[2:] == (1000, 1000) for box in found) / 6000 == pytest.approx(0.75**10, abs=0.008)


def test_a_crop_is_the_box_as_pil_scales_it(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    asked: list[Any] = []

    def drawn(*size: int, **options: Any) -> tuple[int, int, int, int]:
        asked.append((*size, options))
        return 11, 5, 30, 20

    monkeypatch.setattr(image, "random_box", drawn)
    for way in ("nearest", "bilinear", "bicubic", "lanczos"):
        found = cropped(picture, 12, scale=(0.2, 0.3), ratio=(1.0, 2.0), interpolation=way)  # type: ignore[arg-type]
        expected = picture.resize((12, 12), Image.Resampling[way.upper()], box=(11, 5, 41, 25))
        assert np.array_equal(found, np.asarray(expected))
        assert FILTERS[way] == Image.Resampling[way.upper()]
    assert get_args(Interpolation) == tuple(FILTERS)
    assert asked == [(70, 50, {"scale": (0.2, 0.3), "ratio": (1.0, 2.0)})] * 4
    bicubic = picture.resize((12, 12), Image.Resampling.BICUBIC, box=(11, 5, 41, 25))
    assert np.array_equal(cropped(picture, 12), np.asarray(bicubic)), "by default"
    assert asked[-1] == (70, 50, {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)})


@pytest.mark.parametrize("way", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [(20, 10, 260, 190), (0, 0, 300, 200)])
@pytest.mark.parametrize("size", [64, 300])
def test_a_large_box_is_scaled_as_pil_scales_what_was_cut(
    way: Interpolation, box: tuple[int, int, int, int], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 2 of 255, in few places: torch rounds its weights to 16 bits."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    picture, (left, top, width, height) = Image.fromarray(noise), box
    monkeypatch.setattr(image, "random_box", lambda *_, **__: box)
    cut = picture.crop((left, top, left + width, top + height))
    expected = np.asarray(cut.resize((size, size), Image.Resampling[way.upper()])).astype(int)
    frame = Frame(300, 200, size)
    for mirrored in (False, True):
        Crop().draw(frame)
        frame.mirrored = mirrored
        found = framed(picture, frame, interpolation=way)
        assert found.dtype == torch.uint8 and found.is_contiguous()
        off = np.abs(found.permute(1, 2, 0).numpy().astype(int) - (expected[:, ::-1] if mirrored else expected))
        assert off.max() <= 2 and off.mean() < 0.02
        frame = Frame(300, 200, size)


@pytest.mark.parametrize(("box", "needed"), [((0, 0, 400, 300), 32), ((10, 20, 150, 100), 96), ((0, 0, 100, 299), 96)])
def test_a_jpeg_is_decoded_as_large_as_the_box_needs_and_cut_at_its_own_scale(
    box: tuple[int, int, int, int], needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image comes at half of its size: the box is halved with it."""
    asked = []

    def half(picture: Image.Image, min_size: int) -> Pixels:
        asked.append(min_size)
        return Pixels(picture.resize((200, 150), Image.Resampling.BOX))

    monkeypatch.setattr(image, "random_box", lambda *_, **__: box)
    monkeypatch.setattr(image.pictures, "decoded", half)
    whole = places(300, 400).convert("RGB")
    found = cropped(whole, 32)
    left, top, width, height = box
    expected = whole.resize((200, 150), Image.Resampling.BOX).resize(
        (32, 32), Image.Resampling.BICUBIC, box=(left / 2, top / 2, (left + width) / 2, (top + height) / 2)
    )
    assert np.array_equal(found, np.asarray(expected))
    assert asked == [needed]


def test_flip_mirrors_left_and_right() -> None:
    frame = Frame(5, 5, 5)
    Flip(p=1.0).draw(frame)
    flipped = framed(places(5, 5), frame)
    assert flipped[0].tolist() == [[4, 3, 2, 1, 0]] * 5
    assert flipped[1, :, 0].tolist() == [0, 1, 2, 3, 4]
    Flip(p=1.0).draw(frame)
    assert not frame.mirrored, "twice is as it was"
    shown = [Frame(5, 5, 5) for _ in range(2000)]
    for each in shown:
        Flip(p=0.3).draw(each)
    assert sum(each.mirrored for each in shown) / 2000 == pytest.approx(0.3, abs=0.03)


FRAMES = [  # what is cut of 40 x 30, one after the other, whether that is mirrored, and what of the source remains
    ([(4, 3, 20, 10)], False, (4, 3, 20, 10)),
    ([(4, 3, 20, 10)], True, (16, 3, 20, 10)),
    ([(4, 3, 20, 10), (2, 1, 5, 6)], False, (6, 4, 5, 6)),
    ([(4, 3, 20, 10), (2, 1, 5, 6)], True, (29, 4, 5, 6)),
]


@pytest.mark.parametrize(("boxes", "mirrored", "expected"), FRAMES)
def test_frames_within_frames(boxes: list[Any], mirrored: bool, expected: Any) -> None:
    """What is cut is cut from what is shown: from the right of a source that is mirrored."""
    frame = Frame(40, 30, 8, mirrored=mirrored)
    shown = places(30, 40)
    shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else shown
    for left, top, width, height in boxes:
        frame.cut(left, top, width, height)
        shown = shown.crop((left, top, left + width, top + height))
    assert frame.box == expected
    columns, rows = np.asarray(shown)[..., 0], np.asarray(shown)[..., 1]
    assert (columns.min(), rows.min()) == expected[:2]
    left, right = frame.place @ [0, 0.5, 1], frame.place @ [1, 0.5, 1]
    ends = (left[0], right[0])
    assert ends == ((expected[0] + expected[2], expected[0]) if mirrored else (expected[0], expected[0] + expected[2]))
    assert left[1] == right[1] == expected[1] + expected[3] / 2


CHANGES = [
    (Crop(scale=(0.5, 0.5)), True), (Crop(scale=(1.0, 1.0)), False), (Flip(p=0.0), False), (Flip(p=1.0), False),
    (Flip(p=0.01), True),
]  # fmt: skip


@pytest.mark.parametrize(("step", "varies"), CHANGES)
def test_what_sets_two_views_apart(step: Crop | Flip, varies: bool) -> None:
    assert step.varies() == varies


@pytest.mark.parametrize(
    ("size", "given", "expected"), [(None, 28, 28), (3 / 7, 28, 12), (3 / 7, 224, 96), (3 / 7, 100, 43), (9, 28, 9)]
)
def test_the_side_of_a_crop(size: float | None, given: int, expected: int) -> None:
    assert Crop(size=size).side(given) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.009, 1.0)}, "crop.scale is .* from 0.01 to 1.0"),
        ({"scale": (0.5, 1.1)}, "crop.scale is"),
        ({"scale": (0.9, 0.1)}, "crop.scale is"),
        ({"ratio": (0.09, 1.0)}, "crop.ratio is .* from 0.1 to 10.0"),
        ({"ratio": (1.0, 10.1)}, "crop.ratio is"),
        ({"size": 0.0}, "crop.size is 0.0; expected whole pixels, or a share below 1"),
        ({"size": 9.5}, "crop.size is 9.5"),
        ({"size": float("nan")}, "crop.size is nan"),
    ],
)
def test_crops_that_cannot_be(options: Any, message: str) -> None:
    Crop(scale=(0.01, 1.0), ratio=(0.1, 10.0), size=1.0)
    with pytest.raises(UserError, match=message):
        Crop(**options)


def test_chance_is_as_often_as_it_says() -> None:
    for probability in (0.0, 0.2, 0.7, 1.0):
        yes = sum(chance(probability) for _ in range(2000)) / 2000
        assert yes == pytest.approx(probability, abs=0.03 * (0 < probability < 1))


@pytest.mark.parametrize("good", [(0.1, 0.1), (0.1, 2.0), (2.0, 2.0), (0.5, 1.0)])
def test_ranges_within_bounds_are_kept(good: tuple[float, float]) -> None:
    assert check_range("name", good, 0.1, 2.0) == good


@pytest.mark.parametrize("bad", [(0.09, 1.0), (0.5, 2.01), (1.0, 0.9), (float("nan"), 1.0)])
def test_ranges_out_of_bounds_are_refused(bad: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"name is \(.*\); expected two ascending numbers from 0.1 to 2.0"):
        check_range("name", bad, 0.1, 2.0)


@pytest.mark.parametrize(("corner", "across", "down"), [("even", 2, 2), ("before", 1, 2)])
def test_half_a_pixel_goes_to_the_even_one_or_before(corner: Any, across: int, down: int) -> None:
    """Of 5 by 7 pixels, 2 by 3 lie in the middle from (1.5, 2) on."""
    picture = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(7, 5)[..., None].repeat(3, 2))
    prepare = ImagePreprocess(size=2, crop_ratio=0.4, corner=corner)  # 2 / 0.4 = 5, so that nothing is scaled
    assert prepare.frame(5, 7).box[:2] == (across, 2)
    assert prepare(picture)[0, 0, 0] == 5 * down + across


def test_defaults_of_what_is_shown() -> None:
    prepare = ImagePreprocess()
    assert prepare.config() == {
        "size": 224, "resize": "shorter", "interpolation": "bicubic", "crop_ratio": 1.0, "corner": "even",
    }  # fmt: skip
    assert prepare.modality == "image"
    blank = ImagePreprocess(5).blank()
    assert blank.equal(torch.zeros(3, 5, 5, dtype=torch.uint8))
    assert blank.dtype == torch.uint8


@pytest.mark.parametrize("way", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("size", "ratio", "target"), [(8, 0.875, 9), (8, 0.5, 16), (8, 1.0, 8), (10, 0.9, 11)])
def test_squashed_pictures_are_pils_and_cut_in_the_middle(way: Any, size: int, ratio: float, target: int) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 41, 3), dtype=np.uint8))
    found = ImagePreprocess(size, "squash", way, ratio)(picture)
    edge = round((target - size) / 2)
    scaled = np.asarray(picture.resize((target, target), Image.Resampling[way.upper()]))
    assert np.array_equal(found.permute(1, 2, 0).numpy(), scaled[edge : edge + size, edge : edge + size])


def test_twice_the_size_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, decoded = [], image.pictures.decoded
    monkeypatch.setattr(
        image.pictures, "decoded", lambda raw, min_size: asked.append(min_size) or decoded(raw, min_size=min_size)
    )
    ImagePreprocess(8, crop_ratio=0.5)(places(60, 60))
    assert asked == [32]


def test_the_picture_shown_in_a_clip() -> None:
    clip = Frames(np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(3, 3).repeat(4, 1).repeat(4, 2), 5.0)
    for time, shown in ((None, 5), (0.0, 0), (0.5, 2), (1.9, 9)):
        assert np.asarray(image.opened(clip, time=time)).max() == shown
    assert image.opened(places(4, 4), time=3.0).size == (4, 4)


def test_channels_come_first() -> None:
    tensor = image.to_tensor(places(3, 5))
    assert tensor.shape == (3, 3, 5)
    assert tensor[0].tolist() == [[0, 1, 2, 3, 4]] * 3
    assert tensor[1, :, 0].tolist() == [0, 1, 2]
    assert tensor.is_contiguous()


def test_crops_follow_the_seed() -> None:
    random.seed(2)
    first = random_box(30, 40, scale=(0.2, 0.9), ratio=(0.5, 2.0))
    random.seed(2)
    assert random_box(30, 40, scale=(0.2, 0.9), ratio=(0.5, 2.0)) == first
