"""Where a view says that it came from is where its pixels and points came from: their colours tell it."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mmssl.data.collate import collate
from mmssl.errors import DamagedError, UserError
from mmssl.methods import rotation
from mmssl.modalities import image as pictures
from mmssl.modalities import video as clips
from mmssl.modalities.points import Cloud
from mmssl.numerics.color import as_unit
from mmssl.numerics.geometry import apply, cell_centers
from mmssl.transforms import point_steps as steps_of_clouds
from mmssl.transforms import rand_augment
from mmssl.transforms.base import OnDevice
from mmssl.transforms.geometry import Rotate
from mmssl.transforms.image import Crop, Flip, ImagePreprocess
from mmssl.transforms.points import PointsPreprocess
from mmssl.transforms.rand_augment import RandAugment, Warp
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Batch, Preprocess
from mmssl.views import simclr, swav
from mmssl.views.template import Views

INSIDE = 0.8  # blue, in 0 to 1; what is filled in from outside has less


def gradient(width: int, height: int) -> np.ndarray:
    """Returns pixels (height, width, 3) whose red tells how far right they lie, and green how far down."""
    down, across = np.mgrid[0:height, 0:width] + 0.5
    blue = np.full_like(down, 255)
    return np.stack([across / width * 255, down / height * 255, blue], axis=-1).round().astype(np.uint8)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(gradient(width, height))


def jpeg(width: int, height: int, *, orientation: int = 1) -> Image.Image:
    """Returns an unread JPEG, which is decoded no larger than needed; the size is that before it is turned."""
    stream, note = io.BytesIO(), pictures.Image.Exif()
    note[pictures.ORIENTATION] = orientation
    pixels = gradient(height, width).swapaxes(0, 1)[..., [1, 0, 2]] if orientation == 5 else gradient(width, height)
    turned = np.ascontiguousarray(pixels.swapaxes(0, 1)) if orientation == 5 else pixels
    Image.fromarray(turned).save(stream, "JPEG", quality=98, exif=note)
    return pictures.decode(stream.getvalue())


def shown(view: Any, samples: Sequence[Any]) -> Batch:
    return view.on_device(collate([view(sample) for sample in samples], view))


def claimed(place: Tensor, grid: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    """Returns where the middle of each cell lies in the source, as a share of its sides (B, N, 2)."""
    return apply(place, cell_centers(grid))[..., :2] / torch.tensor(size)


def colors(x: Tensor, cells: int) -> Tensor:
    """Returns the mean colours of cells x cells of views (B, 3, [T,] H, W): (B, N, 3)."""
    frames = as_unit(x).flatten(3).unflatten(3, x.shape[3:]) if x.ndim == 4 else as_unit(x)
    pool = torch.nn.functional.adaptive_avg_pool2d
    return pool(frames.flatten(2, -3) if x.ndim == 5 else frames, cells).flatten(2).mT


CELLS, TOLERANCE = 8, 0.02  # of the source's sides: the rounding of colours, and filters at the borders


def agree(view: Tensor, place: Tensor, size: tuple[int, int], *, least: float = 0.95) -> None:
    """Holds that where all of a cell is inside, its colour is that of the place that it claims."""
    found = colors(view, CELLS)
    inside = found[..., 2] > 0.99
    assert inside.float().mean() >= least
    away = (found[..., :2] - claimed(place, (CELLS, CELLS), size)).abs().amax(dim=2)
    assert float(away[inside].max()) < TOLERANCE


WIDE, HIGH = (120, 84), (75, 130)
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "crops": (Views(2, image=[Crop(scale=(0.2, 1.0), ratio=(0.4, 2.5)), Flip()]), {}),
    "flips alone": (Views(2, image=[Flip()]), {}),
    "nothing": (Views(1), {}),
    "shorter": (Views(2, image=[Flip()]), {"crop_ratio": 0.7}),
    "squash": (Views(2, image=[Flip()]), {"resize": "squash"}),
    "squash and cut": (Views(2, image=[Flip()]), {"resize": "squash", "crop_ratio": 0.8}),
    "crops of crops": (Views(2, image=[Crop(scale=(0.5, 0.9)), Flip(), Crop(scale=(0.4, 0.8)), Flip()]), {}),
    "small": (
        Views(2, image=[Crop(scale=(0.3, 1.0))], small=Views(3, image=[Crop(scale=(0.1, 0.2), size=0.6), Flip()])),
        {},
    ),
}


@pytest.mark.parametrize("size", [WIDE, HIGH])
@pytest.mark.parametrize("name", CASES)
def test_images_are_where_they_claim(name: str, size: tuple[int, int]) -> None:
    view, options = CASES[name]
    made = view({"image": ImagePreprocess(40, **options)})
    batch = shown(made, [{"image": picture(*size)}] * 12)
    assert len(batch.places["image"]) == len(batch.views["image"]) == len(made.steps["image"])
    for x, place in zip(batch.views["image"], batch.places["image"], strict=True):
        assert place.shape == (12, 2, 3) and place.dtype == torch.float32
        agree(x, place, size, least=1)


def test_large_jpegs_are_where_they_claim_in_the_whole_picture() -> None:
    """They are decoded at a half, a quarter or an eighth of their size, and turned as their notes say."""
    for raw, size in ((jpeg(901, 607), (901, 607)), (jpeg(907, 601, orientation=5), (907, 601))):
        for view in (Views(2, image=[Crop(scale=(0.05, 1.0)), Flip()]), Views(2, image=[Flip()])):
            batch = shown(view({"image": ImagePreprocess(32)}), [{"image": raw}] * 6)
            for x, place in zip(batch.views["image"], batch.places["image"], strict=True):
                agree(x, place, size, least=1)


def test_images_turned_on_the_device_are_where_they_claim() -> None:
    """Corners are filled by mirroring: what lies in the circle is the image itself."""
    view = Views(2, image=[Crop(scale=(0.3, 0.9)), Flip(), Rotate(degrees=60.0)])({"image": ImagePreprocess(48)})
    batch = shown(view, [{"image": picture(*WIDE)}] * 12)
    circle = (cell_centers((CELLS, CELLS)) - 0.5).norm(dim=1) < 0.4
    for x, place in zip(batch.views["image"], batch.places["image"], strict=True):
        away = (colors(x, CELLS)[..., :2] - claimed(place, (CELLS, CELLS), WIDE)).abs()
        assert float(away[:, circle].max()) < TOLERANCE
        assert float(place[:, 0, 1].abs().min()) > 0, "all are turned"


@pytest.fixture
def _moving(monkeypatch: pytest.MonkeyPatch) -> None:
    moving = {name: change for name, change in rand_augment.OPERATIONS.items() if isinstance(change, Warp)}
    assert len(moving) == 5
    monkeypatch.setattr(rand_augment, "OPERATIONS", moving)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("_moving")
def test_images_moved_by_rand_augment_are_where_they_claim(seed: int) -> None:
    """Two operations in a row, and then a rotation: what moves in from outside is grey."""
    torch.manual_seed(seed)
    steps = [Crop(scale=(0.4, 0.9)), Flip(), RandAugment(operations=2, magnitude=6.0)]
    view = Views(2, image=steps)({"image": ImagePreprocess(48)})
    batch = shown(view, [{"image": picture(*HIGH)}] * 24)
    for x, place in zip(batch.views["image"], batch.places["image"], strict=True):
        agree(x, place, HIGH, least=0.5)
        assert len({tuple(one.flatten().tolist()) for one in place[:, :, :2]}) > 20


def test_quarter_turns_are_where_they_claim() -> None:
    view = rotation.method.view({"image": ImagePreprocess(40)})
    batch = shown(view, [{"image": picture(*WIDE)}] * 6)
    assert len(batch.views["image"]) == 4
    for x, place in zip(batch.views["image"], batch.places["image"], strict=True):
        agree(x, place, WIDE, least=1)


def test_what_moves_with_an_image_turns_with_it_by_quarters() -> None:
    """Dense fields as np.rot90 turns them; boxes, points and vectors by hand: against the clock, x goes to side - y."""
    rng, side = np.random.default_rng(0), 12
    fields = {
        "mask": rng.integers(0, 5, (side, side)),
        "depth": rng.uniform(1, 2, (side, side)).astype(np.float32),
        "flow": rng.normal(size=(side, side, 2)).astype(np.float32),
        "normals": rng.normal(size=(side, side, 3)).astype(np.float32),
        "boxes": np.array([[1, 2, 5, 3], [0, 4, 12, 12]], np.float32),
        "keypoints": np.array([[0.5, 0.5], [3.0, 9.5]], np.float32),
    }
    still = {"crop": None, "flip": None}
    kinds = {name: name for name in fields}
    view = rotation.method.view({"image": ImagePreprocess(side)}, image=still, fields=kinds)
    batch = shown(view, [{"image": picture(side, side), **fields}] * 2)
    found = batch.fields["image"]
    turns = {0: lambda x, y: (x, y), 1: lambda x, y: (y, side - x), 2: lambda x, y: (side - x, side - y)}
    turns[3] = lambda x, y: (side - y, x)
    for turn in range(4):
        assert found["mask"][turn][1].equal(torch.from_numpy(np.rot90(fields["mask"], turn).copy()))
        depth = np.rot90(fields["depth"], turn)
        np.testing.assert_allclose(found["depth"][turn][1].numpy(), depth, rtol=1e-5)
        x, y = (np.rot90(fields["flow"][..., axis], turn) for axis in (0, 1))
        turned = {0: (x, y), 1: (y, -x), 2: (-x, -y), 3: (-y, x)}[turn]
        np.testing.assert_allclose(found["flow"][turn][1].numpy(), np.stack(turned), rtol=1e-5, atol=1e-5)
        x, y, z = (np.rot90(fields["normals"][..., axis], turn) for axis in (0, 1, 2))
        turned = {0: (x, y, z), 1: (y, -x, z), 2: (-x, -y, z), 3: (-y, x, z)}[turn]
        np.testing.assert_allclose(found["normals"][turn][1].numpy(), np.stack(turned), rtol=1e-5, atol=1e-5)
        points = [turns[turn](*point) for point in fields["keypoints"]]
        np.testing.assert_allclose(found["keypoints"][turn].split()[1].numpy(), points, atol=1e-5)
        corners = [[turns[turn](a, b), turns[turn](c, d)] for a, b, c, d in fields["boxes"]]
        boxes = [[*np.min(pair, axis=0), *np.max(pair, axis=0)] for pair in corners]
        np.testing.assert_allclose(found["boxes"][turn].split()[1].numpy(), boxes, atol=1e-5)


class Depth(Preprocess):
    """Depth as it is, (1, H, W)."""

    modality = "depth"

    def __call__(self, raw: Any) -> Tensor:
        return torch.as_tensor(raw)[None]

    def blank(self) -> Tensor:
        return torch.zeros(1, 8, 8)


def test_encoders_of_what_moves_are_shown_every_quarter_turn() -> None:
    preprocess = {"image": ImagePreprocess(8), "depth": Depth()}
    made = rotation.method.view(preprocess, image={"crop": None, "flip": None}, fields={"depth": "depth"})
    depth = np.arange(64, dtype=np.float32).reshape(8, 8) + 1
    batch = shown(made, [{"image": picture(8, 8), "depth": depth}])
    for turn, x in enumerate(batch.views["depth"]):
        np.testing.assert_allclose(x[0].squeeze().numpy(), np.rot90(depth, turn), rtol=1e-5)
    assert len(batch.views["depth"]) == len(batch.views["image"]) == 4


def test_corners_that_a_turn_fills_are_nothing_in_what_moves() -> None:
    """A square turned by 45 degrees leaves corners of (sqrt(2) - 1)**2 of its area; the image has them mirrored."""
    view = Views(1, image=[Rotate(degrees=60.0)], fields={"mask": "mask"})({"image": ImagePreprocess(64)})
    empty = 0.0
    for _ in range(20):
        batch = shown(view, [{"image": Image.new("RGB", (64, 64), (200,) * 3), "mask": np.full((64, 64), 7)}])
        (mask,) = batch.fields["image"]["mask"]
        assert set(mask.unique().tolist()) <= {0, 7} and batch.views["image"][0].min() > 0.78
        empty = max(empty, float((mask == 0).float().mean()))
    assert empty == pytest.approx((2**0.5 - 1) ** 2, abs=0.02)


def test_papers_views_have_places() -> None:
    """With colours changed, only how many there are can be told."""
    for view in (simclr.view, swav.view):
        batch = shown(view({"image": ImagePreprocess(40)}), [{"image": picture(*WIDE)}] * 2)
        assert [place.shape for place in batch.places["image"]] == [(2, 2, 3)] * len(batch.views["image"])


def film(width: int, height: int) -> clips.Frames:
    """Blue is how late it is: 50 images of a tenth of a second."""
    pixels = np.repeat(gradient(width, height)[None], 50, axis=0)
    pixels[..., 2] = (np.arange(50) * 5)[:, None, None]
    return clips.Frames(pixels, 10)


def encoded(width: int, height: int) -> clips.Video:
    return clips.Video(clips.encode(film(width, height).pictures, fps=10, quality=4))


def test_a_clip_tells_its_size_before_and_after_it_was_scaled() -> None:
    for clip in (film(132, 90), encoded(132, 90), encoded(132, 90)):
        assert clip.size == (132, 90)
        assert clip.frames([0.1], min_size=45).shape == (1, 45, 66, 3) and clip.size == (132, 90)
    fresh = encoded(132, 90)
    fresh.frames([0.1], min_size=45)
    assert fresh.size == (132, 90)


@pytest.mark.parametrize("make", [film, encoded])
@pytest.mark.parametrize("preprocess", [{"fps": 4.0}, {}], ids=["window", "whole"])
def test_videos_are_where_and_when_they_claim(make: Any, preprocess: dict[str, Any]) -> None:
    """Groups of other sizes are decoded at other scales; all count in pixels of the source."""
    size = (132, 90)
    large = [Crop(scale=(0.3, 1.0)), Flip()]
    views = Views(2, image=large, small=Views(2, image=[Crop(scale=(0.1, 0.3), size=24), Flip()]))
    for view, count in ((views, 4), (Views(1, image=[Flip(p=1.0)]), 1)):
        made = view({"video": VideoPreprocess(32, frames=4, **preprocess)})
        batch = shown(made, [{"video": make(*size)}] * 4)
        assert len(batch.places["video"]) == count
        for x, place in zip(batch.views["video"], batch.places["video"], strict=True):
            where = apply(place, cell_centers((4, CELLS, CELLS)))  # (B, T * N, 3)
            found = (
                colors(x, CELLS).unflatten(1, (4, -1))
                if x.ndim == 4
                else torch.stack([colors(as_unit(x)[:, :, t], CELLS) for t in range(4)], dim=1)
            )
            expected = where.unflatten(1, (4, -1))
            away = (found[..., :2] - expected[..., :2] / torch.tensor(size)).abs()
            assert float(away.max()) < 1.5 * TOLERANCE
            late = found[..., 2].mean(dim=2) * 255 / 5  # the number of the image
            seconds = expected[..., 2].mean(dim=2)
            assert ((late - (seconds * 10).floor()).abs() < 1.2).all(), "shown is the image of the time"
    assert not preprocess or len(batch.places["video"][0][:, 2, 3].unique()) > 1


def test_fields_of_videos_move_with_pictures_that_are_decoded_smaller() -> None:
    """The mask is how far right a pixel of the source lies, and the box is all of its left half."""
    template = Views(2, video=[Crop(scale=(0.3, 0.9)), Flip()], fields={"mask": "mask", "boxes": "boxes"})
    view = template({"video": VideoPreprocess(24, frames=2, fps=4.0)})
    mask = np.tile(np.arange(160), (120, 1))
    sample = {"video": encoded(160, 120), "mask": mask, "boxes": [[0, 0, 80, 120]]}
    batch = shown(view, [sample] * 6)
    for v, place in enumerate(batch.places["video"]):
        right = apply(place, cell_centers((1, 24, 24)))[..., 0].view(6, 24, 24)
        assert float((batch.fields["video"]["mask"][v] + 0.5 - right).abs().max()) < 1
        for box, middle in zip(batch.fields["video"]["boxes"][v].values, right[:, 0], strict=True):
            inside = (torch.arange(24) + 0.5 > box[0]) & (torch.arange(24) + 0.5 < box[2])
            assert inside.equal(middle < 80)


def cloud(count: int, *, far: float = 0.0) -> Cloud:
    xyz = np.random.default_rng(0).normal(size=(count, 3)) * [4, 2, 1] + [3 + far, -2, 1]
    return Cloud(xyz, np.random.default_rng(1).integers(0, 255, (count, 3), dtype=np.uint8))


STEPS = [
    steps_of_clouds.Crop(share=(0.5, 0.8)),
    steps_of_clouds.Hole(share=0.1),
    steps_of_clouds.Centre(),
    steps_of_clouds.Rotate(axis="any"),
    steps_of_clouds.Mirror(),
    steps_of_clouds.Scale(factor=(0.5, 2.0)),
    steps_of_clouds.Jitter(sigma=0.0),
]


@pytest.mark.parametrize(("far", "tolerance"), [(0.0, 1e-4), (400_000.0, 0.1)])
def test_points_are_where_they_claim_and_keep_their_labels(far: float, tolerance: float) -> None:
    """Their labels are their numbers in the source."""
    preprocess = {
        "points": PointsPreprocess(100, features=("color",)),
        "points_few": PointsPreprocess(60, centre=True),
        "points_all": PointsPreprocess(None),
    }
    view = Views(2, points=STEPS, fields={"number": "labels"})(preprocess)
    raws = [cloud(300, far=far), cloud(50, far=far), cloud(200, far=far)]
    batch = shown(view, [{"points": raw, "number": np.arange(len(raw))} for raw in raws])
    for key in preprocess:
        for x, place, numbers in zip(batch.views[key], batch.places[key], batch.fields[key]["number"], strict=True):
            assert place.shape == (3, 3, 4)
            assert x.lengths.equal(numbers.lengths)
            for sample, (raw, rows, mine) in enumerate(zip(raws, x.split(), numbers.split(), strict=True)):
                found = apply(place[sample : sample + 1], rows[None, :, :3])[0]
                np.testing.assert_allclose(found.numpy(), raw.xyz[mine.numpy()], atol=tolerance)
                if key == "points":
                    np.testing.assert_allclose(rows[:, 3:].numpy(), raw.color[mine.numpy()] / 255, atol=1e-6)
                assert len(set(mine.tolist())) == len(mine) <= 0.8 * len(raw) + 1


def test_labels_follow_the_points_that_are_kept() -> None:
    """Those that are not finite are dropped before any step, and their labels with them."""
    xyz = np.random.default_rng(0).normal(size=(60, 3))
    xyz[[3, 17, 40], [0, 1, 2]] = np.nan, np.inf, 1e39
    steps = [steps_of_clouds.Crop(share=(0.5, 0.9)), steps_of_clouds.Hole(share=0.1)]
    view = Views(2, points=steps, fields={"number": "labels"})({"points": PointsPreprocess(40)})
    for _ in range(10):
        seen = view({"points": Cloud(xyz), "number": np.arange(60)})
        parts = zip(seen["points"], seen["places"]["points"], seen["fields"]["points"]["number"], strict=True)
        for x, place, numbers in parts:
            assert len(x) == len(numbers.values) > 10 and not {3, 17, 40} & set(numbers.values.tolist())
            found = apply(place[None], x[None, :, :3])[0]
            np.testing.assert_allclose(found.numpy(), xyz[numbers.values.numpy()], atol=1e-5)
    with pytest.raises(DamagedError, match=r"labels of a wrong shape: expected \(60,\), found \(57,\)"):
        view({"points": Cloud(xyz), "number": np.arange(57)})
    with pytest.raises(DamagedError, match="a sample without number"):
        view({"points": Cloud(xyz)})


class Doubled(OnDevice):
    """Shows each image twice, and does not say where."""

    def on_device(self, x: Tensor) -> Tensor:
        return torch.stack([x, x.flip(3)], dim=1)

    def of_view(self, number: int, views: int) -> Doubled:
        return self


def test_where_views_of_views_lie_is_not_claimed() -> None:
    view = Views(1, image=[Crop(scale=(0.5, 0.9)), Doubled()], fields={"mask": "mask"})({"image": ImagePreprocess(16)})
    batch = shown(view, [{"image": picture(*WIDE), "mask": np.zeros(WIDE[::-1], int)}] * 2)
    assert len(batch.views["image"]) == 2
    assert "image" not in batch.places and not batch.fields["image"]


def test_fields_need_something_to_move_with() -> None:
    cases: Iterator[tuple[dict[str, Any], Views, str]] = iter([
        ({"points": PointsPreprocess(8)}, Views(1, fields={"mask": "mask"}), "view.fields.mask moves with an image or"),
        ({"image": ImagePreprocess(8)}, Views(1, fields={"kinds": "labels"}), "view.fields.kinds moves with points"),
        (
            {"image": ImagePreprocess(8)},
            Views(1, mask=[Flip()], fields={"mask": "mask"}),
            "steps for mask, which moves with image; leave",
        ),
    ])  # fmt: skip
    for preprocess, view, message in cases:
        with pytest.raises(UserError, match=message):
            view(preprocess)


def test_fields_move_with_the_image_where_a_video_is_shown_too() -> None:
    preprocess = {"video": VideoPreprocess(16, frames=2, fps=4.0), "image": ImagePreprocess(16)}
    view = Views(1, image=[Crop(scale=(0.5, 0.9))], fields={"mask": "mask"})(preprocess)
    clip = encoded(132, 90)
    batch = shown(view, [{"image": picture(*WIDE), "video": clip, "mask": np.zeros(WIDE[::-1], int)}] * 2)
    assert set(batch.places) == {"image", "video"} and set(batch.fields) == {"image"}
    agree(batch.views["image"][0], batch.places["image"][0], WIDE)


def test_draws_do_not_depend_on_what_moves_along() -> None:
    view = Views(2, image=[Crop(), Flip()])
    sample = {"image": picture(*WIDE), "mask": np.zeros(WIDE[::-1], int)}
    found = []
    for fields in ({}, {"mask": "mask"}):
        random.seed(0)
        found.append(view({"image": ImagePreprocess(16)}, fields=fields)(sample)["image"])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
