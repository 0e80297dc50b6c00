"""What moves with an image, against torchvision, scipy and formulas; and what is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from mmssl.errors import DamagedError
from mmssl.modalities import image as pictures
from mmssl.modalities.points import Cloud
from mmssl.numerics.geometry import apply, cell_centers, inverse
from mmssl.transforms import fields
from mmssl.transforms.base import Frame
from mmssl.transforms.geometry import rotation, unit_map, warp
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Ragged

WIDTH, HEIGHT, SIZE = 90, 66, 40
LENGTHS = torch.tensor([3, 0, 2])


def frames(count: int = 12) -> list[Frame]:
    made = [Frame(WIDTH, HEIGHT, SIZE) for _ in range(count)]
    for frame in made:
        Crop(scale=(0.1, 0.9), ratio=(0.5, 2.0)).draw(frame)
        Flip().draw(frame)
    assert {frame.mirrored for frame in made} == {True, False}
    return made


def by_torchvision(value: Any, frame: Frame, **options: Any) -> Tensor:
    left, top, width, height = map(int, frame.box)
    cut = tv.resized_crop(value, top, left, height, width, [frame.size, frame.size], **options)
    return (tv.horizontal_flip(cut) if frame.mirrored else cut).as_subclass(Tensor)


def smooth(*channels: int) -> np.ndarray:
    rough = np.random.default_rng(0).normal(size=(9, 12, *channels))
    zoom = (HEIGHT / 9, WIDTH / 12, *[1] * len(channels))
    return ndimage.zoom(rough, zoom, order=1).astype(np.float32)


def test_boxes_are_those_of_torchvision() -> None:
    corner = torch.rand(30, 2) * torch.tensor([WIDTH, HEIGHT]) * 0.8
    boxes = torch.cat([corner, corner + torch.rand(30, 2) * 30], dim=1)
    for frame in frames():
        given = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(HEIGHT, WIDTH))
        expected = by_torchvision(given, frame)
        found = fields.moved("boxes", boxes.tolist(), frame)
        assert found.lengths.tolist() == [30]
        sides = expected[:, 2:] - expected[:, :2]
        inside = (sides > 0).all(dim=1)  # where torchvision clamps differs for those outside
        torch.testing.assert_close(found.values[inside], expected[inside])
        outside = found.values[~inside]
        assert (((outside[:, 2:] - outside[:, :2]) < 1e-4).any(dim=1)).all(), "no area"
        assert found.values.min() >= 0 and found.values.max() <= SIZE


def test_key_points_are_those_of_torchvision() -> None:
    """It counts them from the middle of the first pixel where it mirrors, and from its corner where it scales."""
    points = torch.rand(20, 2) * torch.tensor([WIDTH, HEIGHT])
    for frame in frames():
        expected = by_torchvision(tv_tensors.KeyPoints(points, canvas_size=(HEIGHT, WIDTH)), frame)
        found = fields.moved("keypoints", points.numpy(), frame).values
        torch.testing.assert_close(found, expected + torch.tensor([float(frame.mirrored), 0]), atol=1e-4, rtol=0)


def test_masks_are_those_of_torchvision() -> None:
    mask = np.random.default_rng(0).integers(0, 300, (HEIGHT, WIDTH))
    for frame in frames():
        exact = {"interpolation": InterpolationMode.NEAREST_EXACT}
        expected = by_torchvision(tv_tensors.Image(torch.from_numpy(mask)[None].float()), frame, **exact)
        found = fields.moved("mask", mask, frame)
        assert found.dtype == torch.int64 and found.equal(expected[0].long())
    enlarged = Frame(WIDTH, HEIGHT, SIZE, (10, 6, SIZE / 2, SIZE / 4), mirrored=True)
    given = tv_tensors.Mask(torch.from_numpy(mask)[None])
    assert fields.moved("mask", mask, enlarged).equal(by_torchvision(given, enlarged)[0]), "by whole factors"


@pytest.mark.parametrize("kind", ["depth", "normals"])
def test_depth_and_normals_are_scaled_as_torchvision_scales_images(kind: Any) -> None:
    given = smooth(*fields.CHANNELS[kind])
    planes = torch.from_numpy(np.moveaxis(np.atleast_3d(given), 2, 0))
    for frame in frames():
        expected = by_torchvision(tv_tensors.Image(planes), frame, antialias=True)
        found = fields.moved(kind, given, frame)
        assert found.shape == ((3, SIZE, SIZE) if kind == "normals" else (SIZE, SIZE))
        found = found.reshape(-1, SIZE, SIZE)
        if kind == "normals" and frame.mirrored:
            expected[0] = -expected[0]
        inner = (..., slice(2, -2), slice(2, -2))  # torchvision knows nothing beyond the border of the crop
        torch.testing.assert_close(found[inner], expected[inner], atol=2e-3, rtol=0)


def test_flow_leads_to_the_same_place() -> None:
    """A flow that is affine, so that it is exact between pixels: where it leads, it leads in the view."""
    turn, shift = np.array([[1.05, 0.1], [-0.2, 0.9]]), np.array([3.0, -5.0])
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    points = np.stack([across, down], axis=-1)
    flow = (points @ turn.T + shift - points).astype(np.float32)
    grid = cell_centers((SIZE, SIZE))
    for frame in frames():
        found = fields.moved("flow", flow, frame)
        assert found.shape == (2, SIZE, SIZE)
        place = torch.from_numpy(frame.place)[None]
        led = apply(place, grid)[0] @ torch.from_numpy(turn.T).float() + torch.from_numpy(shift).float()
        expected = apply(inverse(place), led)[0] * SIZE
        inner = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        inner[3:-3, 3:-3] = True
        led_to = (grid * SIZE + found.flatten(1).T)[inner.flatten()]
        torch.testing.assert_close(led_to, expected[inner.flatten()], atol=3e-2, rtol=0)


@pytest.mark.parametrize("missing", [0.0, float("nan"), float("inf")])
def test_no_depth_is_made_up_beside_what_was_not_measured(missing: float) -> None:
    """A half of the image is at 2 m, of the other nothing came back: views have both, and nothing between."""
    given = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    given[:, 45:] = missing
    for frame in frames():
        found = fields.moved("depth", given, frame)
        assert ((found == 0) | ((found - 2).abs() < 1e-5)).all()
        left, _, width, _ = frame.box
        expected = (45 - left) / width * SIZE  # columns that were measured
        assert abs(float((found > 0).float().sum(dim=1).mean()) - min(max(expected, 0), SIZE)) <= 1
    batch = torch.from_numpy(np.nan_to_num(given, nan=0.0, posinf=0.0))[None].expand(3, -1, -1)
    turned = fields.warped("depth", batch, changes((HEIGHT, WIDTH)), (HEIGHT, WIDTH))
    assert ((turned == 0) | ((turned - 2).abs() < 1e-5)).all() and (turned > 0).any()


def changes(shape: tuple[int, int]) -> Tensor:
    """Returns the maps, in 0 to 1, of a rotation, of a shear with a move, and of nothing."""
    matrix = rotation(torch.tensor([25.0, 0.0, 0.0]))
    matrix[1, 0, 1], matrix[1, 1, 2] = 0.3, 0.4
    return unit_map(matrix, shape)


def by_scipy(plane: np.ndarray, change: Tensor, *, order: int) -> Tensor:
    """Samples (H, W) where a map from 0 to 1 points, pixels from their middles; nothing is outside."""
    scale = np.array(plane.shape, dtype=float)
    turn, shift = change[:, :2].double().numpy()[::-1, ::-1], change[:, 2].double().numpy()[::-1]
    matrix = turn * scale[:, None] / scale[None]
    offset = shift * scale + matrix @ [0.5, 0.5] - 0.5
    return torch.from_numpy(ndimage.affine_transform(plane, matrix, offset, order=order, mode="grid-constant"))


SHAPE = (24, 32)


@pytest.mark.parametrize("kind", ["depth", "mask"])
def test_planes_are_warped_as_scipy_does(kind: Any) -> None:
    value = torch.rand(3, *SHAPE) + 1 if kind == "depth" else torch.randint(1, 5, (3, *SHAPE))
    found = fields.warped(kind, value, changes(SHAPE), SHAPE)
    assert found.dtype == value.dtype
    for row, given, change in zip(found, value, changes(SHAPE), strict=True):
        expected = by_scipy(given.numpy().astype(float), change, order=kind == "depth")
        if kind == "depth":  # at the border of what there is, of what there is
            share = by_scipy(np.ones(SHAPE), change, order=1)
            expected = torch.where(share >= 0.5, expected / share, 0)
        away = (row - expected).abs() > 1e-4
        assert away.float().mean() < (0.01 if kind == "mask" else 1e-6), "halfway between pixels either may be nearest"
    torch.testing.assert_close(found[2], value[2])


def test_images_and_their_depth_are_warped_alike() -> None:
    x, matrix = torch.rand(3, 3, *SHAPE), rotation(torch.tensor([25.0, -40.0, 7.0]))
    found = fields.warped("depth", x[:, 0], unit_map(matrix, SHAPE), SHAPE)
    share = warp(torch.ones(3, 1, *SHAPE), matrix, fill=0.0)[:, 0]
    expected = warp(x, matrix, fill=0.0)[:, 0]
    torch.testing.assert_close(found[share > 0.999], expected[share > 0.999], atol=1e-5, rtol=0)


def test_warped_key_points_and_boxes_are_where_their_pixels_went() -> None:
    matrix = changes(SHAPE)
    points = torch.tensor([[16.5, 12.5], [10.5, 8.5], [20.5, 5.5], [16.5, 12.5], [11.5, 15.5]])
    found = fields.warped("keypoints", Ragged(points, LENGTHS), matrix, SHAPE)
    assert found.lengths.tolist() == LENGTHS.tolist()
    for number, (point, where) in enumerate(zip(points, found.values, strict=True)):
        sample = int(Ragged(points, LENGTHS).sample[number])
        spots = torch.zeros(3, *SHAPE)
        spots[sample, int(point[1]), int(point[0])] = 1
        seen = fields.warped("normals", spots[:, None].expand(-1, 3, -1, -1), matrix, SHAPE)[sample, 2]
        down, across = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(32) + 0.5, indexing="ij")
        middle = torch.stack([(seen * across).sum(), (seen * down).sum()]) / seen.sum()
        assert (middle - where).norm() < 0.3
    boxes = torch.cat([points - 2, points + 3], dim=1)
    moved = fields.warped("boxes", Ragged(boxes, LENGTHS), matrix, SHAPE).values
    scale = torch.tensor([32.0, 24.0])
    for box, row, sample in zip(moved, boxes, Ragged(boxes, LENGTHS).sample, strict=True):
        corners = torch.tensor([[row[x], row[y]] for x in (0, 2) for y in (1, 3)]) / scale
        ends = apply(inverse(matrix[sample : sample + 1]), corners)[0] * scale
        expected = torch.cat([ends.amin(dim=0), ends.amax(dim=0)])
        torch.testing.assert_close(box, torch.minimum(expected.clamp(min=0), scale.repeat(2)))


def test_warped_flow_leads_to_the_same_place() -> None:
    change, scale = changes(SHAPE), torch.tensor([32.0, 24.0])
    turn, shift = torch.tensor([[0.98, 0.05], [-0.04, 1.03]]), torch.tensor([1.0, -0.7])
    pixels = cell_centers(SHAPE) * scale
    flow = (pixels @ turn.T + shift - pixels).T.view(1, 2, *SHAPE).expand(3, -1, -1, -1)
    found = fields.warped("flow", flow, change, SHAPE)
    before = apply(change, cell_centers(SHAPE)) * scale
    inside = ((before > 1) & (before < scale - 1)).all(dim=2)
    expected = apply(inverse(change), (before @ turn.T + shift) / scale) * scale
    led_to = pixels + found.flatten(2).mT
    torch.testing.assert_close(led_to[inside], expected[inside], atol=1e-3, rtol=1e-4)


def test_warped_normals_turn_with_their_picture_and_keep_their_length() -> None:
    """One that points right, in an image turned by 25 degrees against the clock, points up by as much."""
    normals = torch.zeros(3, 3, 24, 24)
    normals[:, 0], normals[:, 2] = 0.6, 0.8
    found = fields.warped("normals", normals, changes((24, 24)), (24, 24))[0, :, 12, 12]
    angle = np.deg2rad(25)
    torch.testing.assert_close(found, torch.tensor([0.6 * np.cos(angle), -0.6 * np.sin(angle), 0.8]).float())
    half = torch.tensor([[[0.5, 0, 0.25], [0, 0.5, 0.25]]])
    torch.testing.assert_close(fields.warped("normals", normals[:1], half, (24, 24)), normals[:1])


def test_images_of_masks_and_depth_are_read_as_they_are_stored() -> None:
    frame = Frame(6, 4, 4, (1, 0, 4, 4), mirrored=True)
    numbers = np.arange(24).reshape(4, 6)
    palette = Image.fromarray(numbers.astype(np.uint8))
    palette.putpalette(bytes(range(255, -1, -1)) * 3)
    deep = Image.fromarray((numbers * 1000).astype(np.uint16))
    for value in (palette, Image.fromarray(numbers.astype(np.uint8)), numbers):
        assert fields.moved("mask", value, frame).tolist() == numbers[:, 4:0:-1].tolist()
    assert fields.moved("depth", deep, frame).tolist() == (1000.0 * numbers[:, 4:0:-1]).tolist()
    turned = io.BytesIO()
    note = Image.Exif()
    note[pictures.ORIENTATION] = 6
    Image.fromarray(np.rot90(numbers).astype(np.uint8)).save(turned, "PNG", exif=note)
    assert fields.moved("mask", pictures.decode(turned.getvalue()), frame).tolist() == numbers[:, 4:0:-1].tolist()


DAMAGED: list[tuple[Any, Any, str]] = [
    ("boxes", [[1, 2, 3]], r"boxes of a wrong shape: expected \(1, 4\), found \(1, 3\)"),
    ("boxes", [[1, 2, 3, 4], [1, 2]], "boxes that are no array"),
    ("boxes", [["a", "b", "c", "d"]], "boxes that are no numbers"),
    ("boxes", [[0, 0, float("nan"), 1]], "boxes that are not finite"),
    ("boxes", {"left": 1}, "boxes that are no numbers"),
    ("keypoints", [1.0, 2.0], "keypoints of a wrong shape"),
    ("mask", np.zeros((5, 6), int), r"mask of a wrong shape: expected \(4, 6\), found \(5, 6\)"),
    ("mask", Image.new("RGB", (6, 4)), r"mask of a wrong shape: .*\(4, 6, 3\)"),
    ("flow", np.zeros((4, 6, 3)), "flow of a wrong shape"),
    ("depth", {"depth": np.zeros((4, 6))}, "depth that are no numbers"),
]


@pytest.mark.parametrize(("kind", "value", "message"), DAMAGED)
def test_what_is_no_such_field_is_damage(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(DamagedError, match=message):
        fields.moved(kind, value, Frame(6, 4, 4))


def test_damaged_images_of_fields_are_damage() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)).save(stream, "PNG")
    with pytest.raises(DamagedError, match="damaged image"):
        fields.moved("mask", pictures.decode(stream.getvalue()[:400]), Frame(40, 40, 4))


def test_no_boxes_are_no_rows() -> None:
    for empty in ([], np.zeros((0, 4))):
        found = fields.moved("boxes", empty, Frame(6, 4, 4))
        assert found.values.shape == (0, 4) and found.lengths.tolist() == [0]
    for kind in ("boxes", "keypoints", "mask", "depth", "flow", "normals"):
        given = np.zeros((4, 6, *fields.CHANNELS[kind])) if kind in fields.CHANNELS else []
        found, blank = fields.moved(kind, given, Frame(6, 4, 4)), fields.blank(kind, 4)  # type: ignore[arg-type]
        if isinstance(found, Ragged):
            found, blank = found.values, blank.values
        assert (found.shape, found.dtype) == (blank.shape, blank.dtype), kind


def test_labels_of_a_cloud_go_with_its_points() -> None:
    index = np.array([3, 0, 0])
    four, five = (Cloud(np.ones((count, 3))) for count in (4, 5))
    assert fields.labels_of([5, 6, 7, 8], four, index).values.tolist() == [8, 5, 5]
    assert fields.labels_of(np.array([0.5, 1, 1, 2], np.float64), four, index).values.dtype == torch.float32
    with pytest.raises(DamagedError, match=r"labels of a wrong shape: expected \(5,\), found \(4,\)"):
        fields.labels_of([5, 6, 7, 8], five, index)
    xyz = np.ones((6, 3))
    xyz[[0, 3]] = np.nan
    assert fields.labels_of([4, 5, 6, 7, 8, 9], Cloud(xyz), index).values.tolist() == [9, 5, 5]


def test_a_frame_is_the_same_part_at_another_size() -> None:
    frame = Frame(60, 40, 8, mirrored=True)
    frame.cut(6, 10, 30, 20)
    larger = frame.at(120, 160)
    assert larger.box == (48, 40, 60, 80) and larger.mirrored and larger.size == 8
    assert frame.box == (24, 10, 30, 20)


def test_normals_may_be_an_image() -> None:
    coded = np.zeros((8, 8, 3), np.uint8)
    coded[:, 4:] = (0, 128, 255)
    found = fields.moved("normals", Image.fromarray(coded), Frame(8, 8, 8, (0, 0, 8, 8)))
    assert not found[:, :, :4].any(), "black was not measured"
    torch.testing.assert_close(found[:, 0, 5], torch.tensor([-1.0, 1 / 255, 1.0]))
