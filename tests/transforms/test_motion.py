"""Maps of motion, windows and boxes, worked out by hand; and how OrderedFrames takes and cuts its frames."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from mmssl.errors import DamagedError, UserError
from mmssl.methods.opn import ShuffledFrames
from mmssl.modalities.video import Frames
from mmssl.transforms import ordered
from mmssl.transforms.motion import busiest_box, draw_window, flow_length, motion_maps
from mmssl.transforms.ordered import orders, path_lengths


def uniform(values: Any, low: float, high: float) -> bool:
    return float(stats.kstest(values, "uniform", (low, high - low)).pvalue) > 1e-3


def test_differences_are_of_grey_levels_from_picture_to_picture() -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (3, 5, 6, 3), dtype=np.uint8)
    grey = pictures.astype(float).mean(3)
    found = motion_maps(pictures)
    np.testing.assert_allclose(found, np.abs(np.diff(grey, axis=0)), rtol=1e-4, atol=1e-3)
    large = pictures.repeat(16, 1).repeat(16, 2)  # 80 x 96
    coarse = motion_maps(large)
    assert coarse.shape == (2, 32, 38)
    np.testing.assert_allclose(coarse[:, 0, 0], found[:, 0, 0], rtol=1e-4, atol=1e-3)
    assert motion_maps(np.swapaxes(large, 1, 2)).shape == (2, 38, 32)
    flow = motion_maps(pictures, measure="flow")
    torch.testing.assert_close(flow, flow_length(torch.from_numpy(grey).float()), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("change", "moves"), [(4, False), (5, True)])
def test_what_stands_still(change: int, moves: bool) -> None:
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    pictures[1, 2, 2] = change
    if moves:
        assert motion_maps(pictures).max() == pytest.approx(change)
    else:
        with pytest.raises(DamagedError, match="clip without motion"):
            motion_maps(pictures)


@pytest.mark.parametrize(
    ("right", "down", "change"), [(3.0, 0.0, 2.0), (0.0, 2.0, -1.0), (1.5, 0.5, 4.0), (0.0, 0.0, 9.0)]
)
def test_flow_of_a_slope_that_brightens(right: float, down: float, change: float) -> None:
    """The least squares solution of gradient . flow = -change, with 1 on the diagonal, is the same everywhere."""
    row, column = torch.meshgrid(torch.arange(14.0), torch.arange(15.0), indexing="ij")
    first = down * row + right * column
    found = flow_length(torch.stack([first - change / 2, first + change / 2]))
    gradient = np.array([right, down])
    expected = np.linalg.solve(np.outer(gradient, gradient) + np.eye(2), -gradient * change)
    assert found.shape == (1, 14, 15)
    inner = found[0, 2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.full_like(inner, float(np.linalg.norm(expected))), atol=1e-4, rtol=1e-4)


def test_flow_is_of_windows_of_five_by_five() -> None:
    slope = torch.arange(15.0).expand(2, 14, 15).clone() * 4
    slope[1, 7, 8] += 0.5
    moving = (flow_length(slope)[0] > 1e-4).nonzero()
    assert moving.amin(0).tolist() == [5, 6]
    assert moving.amax(0).tolist() == [9, 10]


def test_windows_are_drawn_in_proportion_to_their_motion() -> None:
    motion = torch.tensor([1.0, 3.0, 0.0, 2.0, 0.0, 0.0])
    maps = motion[:, None, None].expand(6, 2, 3)
    for steps in (1, 2, 6):
        weights = np.array([float(motion[i : i + steps].sum()) for i in range(7 - steps)])
        drawn = np.bincount([draw_window(maps, steps) for _ in range(1500)], minlength=len(weights)) / 1500
        np.testing.assert_allclose(drawn, weights / weights.sum(), atol=0.05)


@pytest.mark.parametrize(
    ("shape", "side", "hot", "centre"),
    [
        ((8, 8), 0.1, (2, 5), (5.5, 2.5)),
        ((8, 8), 0.4, (2, 5), (5.5, 2.5)),
        ((8, 16), 0.4, (6, 12), (12.5, 6.5)),
        ((16, 8), 0.6, (12, 3), (3.5, 12.5)),
        ((8, 8), 0.4, (0, 7), (6.5, 1.5)),
        ((8, 8), 0.6, (0, 0), (2.5, 2.5)),
        ((8, 8), 5.0, (0, 0), (3.5, 3.5)),
    ],
)
def test_the_busiest_box_is_about_what_moves(
    shape: tuple[int, int], side: float, hot: tuple[int, int], centre: tuple[float, float]
) -> None:
    maps = torch.zeros(3, *shape)
    maps[1, hot[0], hot[1]] = 1
    assert busiest_box(maps, side) == pytest.approx([place / 8 for place in centre])


def test_more_motion_counts_and_the_nearer_to_the_middle_the_more() -> None:
    maps = torch.zeros(2, 1, 20)
    maps[:, 0, 3], maps[0, 0, 9], maps[1, 0, 10] = 1.0, 1.5, 1.5
    maps = maps.expand(2, 20, 20) * (torch.arange(20) == 9)[:, None]
    x, y = busiest_box(maps, 0.05)
    assert (x * 20, y * 20) == pytest.approx((3.5, 9.5)), "of both maps together"
    x, y = busiest_box(maps, 0.15)
    assert y * 20 == pytest.approx(9.5)
    assert x * 20 == pytest.approx(9.5)


OPTIONS: dict[str, Any] = {"search": 2.0, "crop": 8, "fps": 10.0, "side": 16, "jitter": 0}


def task(**options: Any) -> ShuffledFrames:
    return ShuffledFrames(**{**OPTIONS, **options})


def test_steps_are_of_the_grid() -> None:
    made = task()
    drawn = [made.steps((0.2, 0.5)) for _ in range(600)]
    assert np.bincount(drawn).tolist()[:2] == [0, 0]
    np.testing.assert_allclose(np.bincount(drawn)[2:] / 600, [1 / 6, 1 / 3, 1 / 3, 1 / 6], atol=0.06)
    assert made.steps((0.0, 0.0)) == 1
    assert {task(random_times=False).steps((0.2, 0.5)) for _ in range(9)} == {5}


@pytest.mark.parametrize(
    ("duration", "search", "steps", "count"), [(4.0, 2.0, 5, 20), (1.0, 2.0, 5, 10), (4.0, 0.1, 5, 6)]
)
def test_times_of_the_grid(duration: float, search: float, steps: int, count: int) -> None:
    fixed = task(random_times=False, search=search)._times(duration, steps)
    assert fixed == pytest.approx([(i + 0.5) / 10 for i in range(count)])
    within = min(count, round((duration - 0.2) * 10))
    starts = []
    for _ in range(200):
        times = task(search=search)._times(duration, steps)
        assert len(times) == within
        assert np.diff(times) == pytest.approx([0.1] * (within - 1))
        assert times[0] >= 0.1 - 1e-9
        assert times[-1] < duration - 0.1 + 1e-6
        starts.append(times[0])
    room = duration - 0.2 - within / 10
    assert min(starts) == pytest.approx(0.1, abs=0.03 + 0.06 * room)
    assert max(starts) == pytest.approx(0.2 + room, abs=0.03 + 0.06 * room)


@pytest.mark.parametrize(("random_times", "shortest"), [(True, 0.8), (False, 0.6)])
def test_the_shortest_clip(random_times: bool, shortest: float) -> None:
    made = task(random_times=random_times)
    assert len(made._times(shortest, 5)) == 6
    with pytest.raises(DamagedError, match=f"{shortest - 0.02:.2f} s, expected {shortest:.2f} s"):
        made._times(shortest - 0.02, 5)


PLACES = np.stack(np.broadcast_arrays(np.arange(30), np.arange(20)[:, None], 0), axis=2).astype(np.uint8)  # 20 x 30


@pytest.mark.parametrize(
    ("centre", "corner"), [((15, 10), (11, 6)), ((0, 0), (0, 0)), ((30, 20), (22, 12)), ((15.4, 10.6), (11, 7))]
)
def test_cuts_lie_about_their_centre_and_within(centre: tuple[float, float], corner: tuple[int, int]) -> None:
    cut = task()._cut(PLACES, centre, 8)
    assert cut.shape == (8, 8, 3)
    assert cut[0, 0, :2].tolist() == list(corner)


@pytest.mark.parametrize(("centre", "low"), [((15, 10), (9, 4)), ((0, 0), (0, 0)), ((99, 99), (18, 8))])
def test_cuts_are_off_by_the_jitter_each_way_on_its_own(centre: tuple[float, float], low: tuple[int, int]) -> None:
    corners = [tuple(task(jitter=2)._cut(PLACES, centre, 8)[0, 0, :2].tolist()) for _ in range(400)]
    assert set(corners) == {(low[0] + x, low[1] + y) for x in range(5) for y in range(5)}


def test_a_crop_is_anywhere_about_the_busiest_place_the_same_for_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to an eighth of its side off: the region searched is a quarter wider."""
    asked: list[Any] = []
    monkeypatch.setattr(ordered, "busiest_box", lambda maps, side: asked.append((len(maps), side)) or (0.5, 0.6))
    monkeypatch.setattr(ordered, "motion_maps", lambda pictures, measure: asked.append(measure) or torch.ones(3, 2, 2))
    wide = np.zeros((20, 160, 200, 3), np.uint8)
    wide[..., 0], wide[..., 1] = np.arange(200), np.arange(160)[:, None]
    made = task(side=160, crop=80, motion="flow")
    found = []
    for _ in range(150):
        frames = made.take(Frames(wide, 10.0), [0, 1, 2])
        assert frames.shape == (3, 80, 80, 3)
        assert (frames == frames[0]).all()
        found.append(frames[0, 0, 0, :2])
    left, top = np.array(found, float).T
    assert uniform(left + np.random.uniform(-0.5, 0.5, 150), 80 - 40 - 10, 80 - 40 + 10)
    assert uniform(top + np.random.uniform(-0.5, 0.5, 150), 96 - 40 - 10, 96 - 40 + 10)
    assert asked[:2] == ["flow", (2, 1.25 * 80 / 160)]


def test_ways_and_paths_by_hand() -> None:
    assert orders(3) == [(0, 1, 2), (0, 2, 1), (1, 0, 2)]
    assert len(orders(4)) == 12
    places = torch.tensor([0.0, 1.0, 5.0])
    lengths = path_lengths((places[:, None] - places).abs().expand(2, 3, 3))
    assert lengths.tolist() == [[1 + 4, 5 + 4, 1 + 5]] * 2


def test_what_cannot_be() -> None:
    task(crop=16)
    with pytest.raises(UserError, match="crop is 17 of side 16"):
        task(crop=17)
    random.seed(0)
