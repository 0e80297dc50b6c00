"""Affine maps against numpy, and which cells of two views match against brute force over the pixels that they show."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from mmssl.numerics.geometry import apply, cell_centers, compose, inverse, same_place
from mmssl.transforms.base import Frame
from mmssl.transforms.image import Crop, Flip

SOURCES = [(96, 60), (61, 97), (80, 80)]


def homogeneous(maps: Tensor) -> np.ndarray:
    last = np.eye(maps.shape[2])[-1:]
    return np.stack([np.concatenate([one, last]) for one in maps.double().numpy()])


@pytest.mark.parametrize("dim", [2, 3])
def test_maps_are_those_of_numpy(dim: int) -> None:
    first, then = torch.randn(2, 5, dim, dim + 1).double()
    points, shared = torch.randn(5, 7, dim).double(), torch.randn(7, dim).double()
    for given in (points, shared):
        rows = np.broadcast_to(given.numpy(), (5, 7, dim))
        ones = np.concatenate([rows, np.ones((5, 7, 1))], axis=2)
        expected = np.einsum("bij,bnj->bni", homogeneous(first), ones)[..., :dim]
        np.testing.assert_allclose(apply(first, given), expected)
    np.testing.assert_allclose(homogeneous(compose(first, then)), homogeneous(then) @ homogeneous(first))
    np.testing.assert_allclose(homogeneous(inverse(first)), np.linalg.inv(homogeneous(first)))
    torch.testing.assert_close(apply(inverse(first), apply(first, points)), points)


def test_centres_run_over_columns_first() -> None:
    assert cell_centers((2, 4)).tolist() == [[x, y] for y in (0.25, 0.75) for x in (0.125, 0.375, 0.625, 0.875)]
    found = cell_centers((2, 1, 2)).tolist()
    assert found == [[0.25, 0.5, 0.25], [0.75, 0.5, 0.25], [0.25, 0.5, 0.75], [0.75, 0.5, 0.75]]


def shown_pixels(frame: Frame) -> np.ndarray:
    """Returns where in the source each pixel of a view lies that shows a box of whole pixels: (height, width, 2)."""
    down, across = np.mgrid[0 : frame.height, 0 : frame.width] + 0.5
    left, top, width, height = map(int, frame.box)
    cut = np.stack([across, down], axis=-1)[top : top + height, left : left + width]
    return cut[:, ::-1] if frame.mirrored else cut


def cells(frame: Frame, grid: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Returns the middle of the pixels of each cell, row by row (N, 2), and the diagonal of a cell."""
    parts = [part for row in np.split(shown_pixels(frame), grid[0]) for part in np.split(row, grid[1], axis=1)]
    assert all(part.size for part in parts)
    height, width = parts[0].shape[:2]
    return np.stack([part.mean((0, 1)) for part in parts]), float(np.hypot(height, width))


def matches(one: tuple[np.ndarray, float], other: tuple[np.ndarray, float], radius: float) -> tuple[Tensor, Tensor]:
    """Returns for each pair of cells whether they match (N, N'), and whether rounding cannot tell."""
    limit = radius * max(one[1], other[1])
    found = torch.zeros(len(one[0]), len(other[0]), dtype=torch.bool)
    close = found.clone()
    for (i, a), (j, b) in itertools.product(enumerate(one[0]), enumerate(other[0])):
        away = float(np.hypot(*(a - b)))
        found[i, j], close[i, j] = away <= limit, abs(away - limit) < 1e-4
    return found, close


def whole_cells(source: tuple[int, int], grid: tuple[int, int]) -> Frame:
    """Draws a view whose cells are of whole pixels, at times mirrored; it may be much wider than high."""
    width, height = (grid[1 - axis] * random.randint(1, source[axis] // grid[1 - axis]) for axis in (0, 1))
    frame = Frame(*source, 32)
    frame.cut(random.randint(0, source[0] - width), random.randint(0, source[1] - height), width, height)
    Flip(p=0.5).draw(frame)
    return frame


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("grid", "other_grid"), [((4, 4), None), ((3, 5), (6, 2)), ((8, 8), (4, 4)), ((1, 7), None)])
def test_cells_match_as_the_pixels_that_they_show(
    source: tuple[int, int], grid: tuple[int, int], other_grid: tuple[int, int] | None
) -> None:
    pairs = [(whole_cells(source, grid), whole_cells(source, other_grid or grid)) for _ in range(24)]
    one, other = (torch.stack([torch.from_numpy(pair[i].place) for pair in pairs]) for i in (0, 1))
    seen: set[bool] = set()
    for radius in (0.23, 0.7, 1.61):
        found = same_place(one, other, grid=grid, other_grid=other_grid, radius=radius)
        for row, (a, b) in zip(found, pairs, strict=True):
            expected, close = matches(cells(a, grid), cells(b, other_grid or grid), radius)
            assert ((row == expected) | close).all()
            seen |= set(expected.flatten().tolist())
    assert seen == {True, False}


def test_cells_of_random_crops_match_by_the_arithmetic_of_crops() -> None:
    """Boxes are not of whole cells here; far into a large source, and with the default radius of 0.7."""
    grid, most = (7, 9), 0
    for _ in range(40):
        centres = []
        frames = [Frame(4000, 3000, 224) for _ in range(2)]
        for frame in frames:
            Crop(scale=(0.02, 1.0)).draw(frame)
            Flip().draw(frame)
            left, top, width, height = frame.box
            across = (np.arange(grid[1]) + 0.5) * width / grid[1]
            across = left + (width - across if frame.mirrored else across)
            down = top + (np.arange(grid[0]) + 0.5) * height / grid[0]
            middle = np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2)
            centres.append((middle, float(np.hypot(width / grid[1], height / grid[0]))))
        expected, close = matches(centres[0], centres[1], 0.7)
        one, other = (torch.from_numpy(frame.place)[None] for frame in frames)
        assert ((same_place(one, other, grid=grid)[0] == expected) | close).all()
        assert torch.equal(same_place(one, other, grid=grid).mT, same_place(other, one, grid=grid))
        most = max(most, int(expected.sum()))
    assert most > 30


def test_a_view_matches_itself_cell_by_cell_however_fine_the_grid() -> None:
    place = torch.tensor([[[-37.3, 0, 3540.1], [0, 41.7, 2900.9]]])
    found = same_place(place, place, grid=(20, 20), radius=0.01)[0]
    assert torch.equal(found, torch.eye(400, dtype=torch.bool))


def test_turned_views_match_too() -> None:
    """A quarter turn against the clock: its x runs up the source, its y to the right."""
    straight = torch.tensor([[[8.0, 0, 4], [0, 6, 2]]])
    turned = torch.tensor([[[0.0, 8, 4], [-6, 0, 8]]])
    found = same_place(straight, turned, grid=(2, 2), radius=0.1)[0]
    assert found.nonzero().tolist() == [[0, 1], [1, 3], [2, 0], [3, 2]]


def test_videos_match_in_place_and_time() -> None:
    grid, other_grid, radius = (4, 2, 3), (2, 3, 3), 0.6
    one = torch.tensor([[[30.0, 0, 0, 10], [0, 20, 0, 5], [0, 0, 2.0, 1.0]]])  # from 1 s to 3 s
    other = torch.tensor([[[-24.0, 0, 0, 36], [0, 24, 0, 8], [0, 0, 1.0, 2.0]]])  # mirrored, from 2 s to 3 s
    found = same_place(one, other, grid=grid, other_grid=other_grid, radius=radius)[0]

    def centre(place: Tensor, shape: tuple[int, ...], t: int, y: int, x: int) -> list[float]:
        sides = [float(place[axis, axis]) for axis in range(3)]
        return [
            sides[axis] * (number + 0.5) / shape[2 - axis] + float(place[axis, 3])
            for axis, number in enumerate((x, y, t))
        ]

    diagonal, duration = max(np.hypot(10, 10), np.hypot(8, 8)), 0.5
    a, b = ([centre(p[0], g, *cell) for cell in np.ndindex(*g)] for p, g in ((one, grid), (other, other_grid)))
    expected = [
        [np.hypot(p[0] - q[0], p[1] - q[1]) <= radius * diagonal and abs(p[2] - q[2]) <= radius * duration for q in b]
        for p in a
    ]
    assert found.tolist() == expected
    assert not found[:12].any() and found[12:].any(), "only the second half of the first is shown by the second"
