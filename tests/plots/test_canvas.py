"""What images are made of, pixel by pixel."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from given import defaults
from PIL import Image, ImageDraw, ImageFont

from mmssl.plots import canvas
from mmssl.plots.canvas import GAP, PALETTE, TITLE, blend, heat, label_colors, scaled, tiles
from mmssl.plots.scatter import MARGIN, TILT, dots, look_down, on_canvas


def noise(*shape: int) -> np.ndarray:
    return np.random.randint(0, 256, shape, dtype=np.uint8)


def test_measures_and_colours() -> None:
    assert (GAP, TITLE, MARGIN, TILT) == (4, 16, 0.04, 0.6)
    assert PALETTE.dtype == np.uint8
    assert PALETTE.tolist() == [
        [0, 0, 0],
        [230, 60, 50],
        [60, 170, 75],
        [65, 100, 215],
        [245, 200, 30],
        [145, 60, 180],
        [70, 200, 220],
        [240, 130, 50],
    ]
    assert defaults(blend) == {"opacity": 0.5, "where": None}
    assert defaults(look_down) == {"turn": 0.4} and defaults(dots) == {"size": 3}


@pytest.mark.parametrize(("shape", "size"), [((10, 30), (20, 60)), ((30, 10), (60, 20)), ((40, 200), (12, 60))])
def test_the_longer_side_is_scaled(shape: tuple[int, int], size: tuple[int, int]) -> None:
    pixels = noise(*shape, 3)
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))
    assert (scaled(pixels, 60) == expected).all() and expected.shape[:2] == size
    assert scaled(noise(1, 300, 3), 10).shape == (1, 10, 3) and scaled(noise(300, 1, 3), 10).shape == (10, 1, 3)


def test_a_map_is_coloured_from_its_least_to_its_largest_value() -> None:
    values = np.array([[-3.0, 1.0], [5.0, 3.0]])
    table = matplotlib.colormaps["inferno"]
    expected = [[[round(255 * c) for c in table(unit)[:3]] for unit in row] for row in ([0.0, 0.5], [1.0, 0.75])]
    assert heat(values).tolist() == expected and heat(values).dtype == np.uint8
    assert (heat(np.full((2, 3), 7.0)) == np.round(255 * np.array(table(0.0)[:3]))).all(), "a flat one is all low"
    wide = heat(values, shape=(9, 12))
    assert wide.shape == (9, 12, 3)
    unit = Image.fromarray(np.array([[0.0, 0.5], [1.0, 0.75]], np.float32)).resize((12, 9), Image.Resampling.BICUBIC)
    smooth = table(np.clip(np.asarray(unit), 0, 1))[..., :3]
    np.testing.assert_allclose(wide, np.round(smooth * 255), atol=1)


def test_one_picture_lies_over_another() -> None:
    under, over = noise(3, 4, 3), noise(3, 4, 3)
    where = np.eye(3, 4, dtype=bool)
    for opacity in (0.25, 0.5):
        mixed = np.round(under.astype(float) * (1 - opacity) + over.astype(float) * opacity)
        assert (blend(under, over, opacity=opacity) == mixed).all()
        held = blend(under, over, opacity=opacity, where=where)
        assert (held[where] == mixed[where]).all() and (held[~where] == under[~where]).all()
    assert (blend(under, over) == blend(under, over, opacity=0.5)).all()


def test_labels_have_colours_in_turn_and_nothing_is_black() -> None:
    found = label_colors(np.array([[-1, 0, 1, 2], [7, 8, 9, 14], [15, 255, 3, 4]]))
    places = [[0, 0, 1, 2], [7, 1, 2, 7], [1, (255 - 1) % 7 + 1, 3, 4]]
    assert (found == PALETTE[np.array(places)]).all()


def test_tiles_of_any_size_lie_in_rows() -> None:
    rows = [[noise(5, 7, 3), noise(3, 9, 3)], [noise(4, 2, 3)], [noise(2, 8, 3), noise(6, 3, 3), noise(1, 5, 3)]]
    whole = np.asarray(tiles(rows))
    expected = np.full((5 + 4 + 6 + 4 * GAP, 8 + 9 + 5 + 4 * GAP, 3), 255, np.uint8)
    for row, top in zip(rows, (4, 13, 21), strict=True):
        for tile, left in zip(row, (4, 16, 29), strict=False):
            expected[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    assert (whole == expected).all()


def test_titles_stand_above() -> None:
    rows = [[noise(20, 30, 3), noise(20, 30, 3)], [noise(20, 30, 3), noise(20, 30, 3)]]
    titles = [["a", "b c"], ["d", "e"]]
    whole = np.asarray(tiles(rows, titles=titles))
    plain = Image.new("RGB", (2 * 30 + 3 * GAP, 2 * (20 + TITLE) + 3 * GAP), "white")
    for r, top in enumerate((GAP, GAP * 2 + 20 + TITLE)):
        for c, left in enumerate((GAP, GAP * 2 + 30)):
            ImageDraw.Draw(plain).text((left, top), titles[r][c], fill="black", font=ImageFont.load_default(11))
            plain.paste(Image.fromarray(rows[r][c]), (left, top + TITLE))
    assert (whole == np.asarray(plain)).all()
    assert canvas.tiles([[noise(2, 2, 3)]]).size == (2 + 2 * GAP, 2 + 2 * GAP)


def test_a_camera_looks_down_from_aside() -> None:
    xyz = np.random.normal(size=(20, 3))
    turn = np.array([[np.cos(0.3), 0, np.sin(0.3)], [0, 1, 0], [-np.sin(0.3), 0, np.cos(0.3)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(0.6), -np.sin(0.6)], [0, np.sin(0.6), np.cos(0.6)]])
    np.testing.assert_allclose(look_down(xyz, turn=0.3), xyz @ turn.T @ tilt.T)


@pytest.mark.parametrize("stretch", [(4.0, 2.0), (1.0, 3.0)])
def test_points_fill_the_canvas_but_for_its_margin(stretch: tuple[float, float]) -> None:
    seen = np.random.uniform(-1, 1, (50, 3)) * (*stretch, 9)
    found = on_canvas(seen, 200)
    low, high = found.min(0), found.max(0)
    longer = int(np.ptp(seen[:, :2], axis=0).argmax())
    assert (low[longer], high[longer]) == pytest.approx((8, 192))
    np.testing.assert_allclose((low + high) / 2, 100)
    sides = np.ptp(seen[:, :2], axis=0)
    np.testing.assert_allclose((high - low) / sides, 184 / sides.max())
    assert on_canvas(np.array([[3.0, 4.0, 5.0]]), 50).tolist() == [[25.0, 25.0]]


def test_dots_are_squares_the_nearest_on_top() -> None:
    pixels = np.array([[3.4, 5.0], [4.4, 6.0], [9.0, 0.0], [-7.0, 9.0], [4.0, 6.0]])
    depth, colors = np.array([1.0, 2.0, 5.0, 0.0, 2.0]), noise(5, 3)
    alone = [dots(pixels[n : n + 1], depth[n : n + 1], colors[n : n + 1], 10) for n in range(5)]
    for n, picture in enumerate(alone):
        mine = np.full((10, 10, 3), 255, np.uint8)
        column, row = round(pixels[n, 0]), round(pixels[n, 1])
        for y in range(row - 1, row + 2):
            for x in range(column - 1, column + 2):
                mine[min(max(y, 0), 9), min(max(x, 0), 9)] = colors[n]
        assert (picture == mine).all()
    stacked = np.repeat(pixels[:1], 3, axis=0)
    nearest = dots(stacked[:1], depth[:1], colors[1:2], 10)
    assert (dots(stacked, np.array([2.0, 1.0, 3.0]), colors[:3], 10) == nearest).all()
    wide = dots(np.array([[5.0, 5.0]]), np.array([1.0]), colors[:1], 10, size=4)
    assert np.argwhere((wide == colors[0]).all(2)).min(0).tolist() == [3, 3]
    assert np.argwhere((wide == colors[0]).all(2)).max(0).tolist() == [6, 6]
