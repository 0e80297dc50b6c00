"""Windows and gaps drawn by the motion in them, shots kept apart, and crops placed where things move."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from mmssl.errors import DamagedError, LackingError, UserError
from mmssl.modalities.video import Frames
from mmssl.transforms import frames as frame_steps
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.base import Frame
from mmssl.transforms.frames import Window
from mmssl.transforms.image import Crop
from mmssl.transforms.motion import correlations, draw_paced, draw_place
from mmssl.transforms.video import VideoPreprocess
from mmssl.views.template import Views

NOISE = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
"""A still shot, of which one cell changes."""


def film(changes: list[int], *, shots: tuple[int, ...] = ()) -> np.ndarray:
    """Frames whose cell (1, 2) changes by so many grey levels from each to the next; shots begin at some."""
    pictures = []
    for t, level in enumerate(np.cumsum([0, *changes])):
        picture = 255 - NOISE if sum(t >= s for s in shots) % 2 else NOISE.copy()
        picture[1, 2] = level
        pictures.append(np.repeat(picture, 3, axis=2))
    return np.stack(pictures)


def drawn(pictures: np.ndarray, frames: int, gaps: list[int], count: int = 1500) -> dict[tuple[int, int], float]:
    found = Counter(draw_paced(pictures, frames, gaps)[:2] for _ in range(count))
    return {key: number / count for key, number in found.items()}


def test_windows_and_gaps_are_drawn_by_the_motion_between_their_ends() -> None:
    changes = [0, 30, 0, 0, 10]
    pictures = film(changes)
    weights = {(start, gap): sum(changes[start : start + 2 * gap]) for gap in (1, 2) for start in range(6 - 2 * gap)}
    found = drawn(pictures, 3, [1, 2])
    for key, weight in weights.items():
        assert found.get(key, 0.0) == pytest.approx(weight / sum(weights.values()), abs=0.04), key
    assert (2, 1) not in found, "nothing moves there"
    for _ in range(20):
        start, gap, motion = draw_paced(pictures, 3, [1, 2])
        expected = torch.zeros(8, 8)
        expected[1, 2] = sum(changes[start : start + 2 * gap])
        torch.testing.assert_close(motion, expected)


def test_frames_of_different_shots_are_not_drawn_together() -> None:
    pictures = film([20] * 7, shots=(3,))
    cut = correlations(torch.from_numpy(pictures[..., 0]).float()) < 0.5
    assert cut.tolist() == [False] * 2 + [True] + [False] * 4
    assert set(drawn(pictures, 3, [1, 2], 300)) == {(0, 1), (3, 1), (4, 1), (5, 1), (3, 2)}
    with pytest.raises(LackingError, match="clip without a shot as long as the window"):
        draw_paced(film([20] * 3, shots=(2,)), 3, [1])
    with pytest.raises(LackingError, match="clip without motion"):
        draw_paced(film([0] * 7), 3, [1])


def test_images_correlate_as_numpy_has_it_and_even_ones_are_alike() -> None:
    grey = torch.rand(5, 6, 7) * 200
    expected = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in pairwise(grey)]
    torch.testing.assert_close(correlations(grey), torch.tensor(expected, dtype=torch.float32))
    even = torch.stack([torch.zeros(6, 7), torch.full((6, 7), 90.0), grey[0]])
    assert correlations(even).tolist() == [1.0, 1.0]


def test_a_box_lies_as_often_as_there_is_motion_in_it() -> None:
    """Of 6 x 9 cells of ten pixels two move, the second three times as much; boxes are two cells wide and one high."""
    motion = torch.zeros(6, 9)
    motion[2, 0], motion[4, 6] = 1.0, 3.0
    places = torch.tensor([draw_place(motion, 90, 60, (20, 10)) for _ in range(2000)])
    row = (places[:, 1] / 50 * 6).long()
    assert float((row == 2).float().mean()) == pytest.approx(1 / 7, abs=0.03), "one column of boxes against two"
    assert float((row == 4).float().mean()) == pytest.approx(6 / 7, abs=0.03)
    assert places[:, 0].min() >= 0 and places[:, 0].max() <= 70 and places[:, 1].max() <= 50
    high = places[row == 4, 0]
    assert high.min() >= 70 * 5 / 8 - 1e-3 and high.max() <= 70 * 7 / 8 + 1e-3
    even = torch.tensor([draw_place(torch.zeros(6, 9), 90, 60, (20, 10)) for _ in range(500)])
    assert even.mean(dim=0).tolist() == pytest.approx([35, 25], abs=4), "anywhere"
    assert draw_place(motion, 90, 60, (90, 60)) == (0.0, 0.0)


def test_crops_of_a_frame_with_motion_are_placed_there() -> None:
    motion = torch.zeros(8, 16)
    motion[2, 12] = 1.0
    for _ in range(40):
        frame = Frame(160, 80, 8, motion=motion)
        Crop(scale=(0.02, 0.05), ratio=(1.0, 1.0)).draw(frame)
        left, top, width, height = frame.box
        assert left - 8 <= 125 <= left + width + 8 and top - 8 <= 25 <= top + height + 8
        assert left >= 0 and left + width <= 160 and top >= 0 and top + height <= 80
    assert frame.at(320, 160).motion is motion


def numbered(frames: int, fps: float, side: int = 16) -> Frames:
    """Frames whose blue tells their number; red flickers in the top left from frame 8 on."""
    pictures = np.zeros((frames, side, side, 3), np.uint8)
    pictures[..., 1] = np.arange(side) * 15
    pictures[..., 2] = (np.arange(frames) * 3)[:, None, None]
    pictures[8::2, :4, :4, 0] = 250
    return Frames(pictures, fps)


def view(**window: Any) -> Any:
    return Views(1, video=[Window(frames=3, fps=10.0, **window)])({"video": VideoPreprocess(16)})


def seen(made: Any, clip: Frames) -> tuple[list[int], float, float]:
    shown = made({"video": clip})
    place = shown["places"]["video"][0]
    return [int(n) // 3 for n in shown["video"][0][2, :, 0, 0]], float(place[2, 3]), float(place[2, 2])


@pytest.mark.parametrize("motion", [None, "differences"])
def test_gaps_are_drawn_from_their_range_and_the_place_tells_when(motion: Any) -> None:
    gaps: Counter[int] = Counter()
    for _ in range(120):
        numbers, start, span = seen(view(gap=(2, 4), motion=motion), numbered(20, 10.0))
        gap = numbers[1] - numbers[0]
        assert numbers == [numbers[0], numbers[0] + gap, numbers[0] + 2 * gap]
        assert span == pytest.approx(3 * gap / 10)
        assert start + span / 6 == pytest.approx((numbers[0] + 0.5) / 10, abs=0.06), "the middle of the first third"
        gaps[gap] += 1
    assert set(gaps) == {2, 3, 4}
    if motion is None:
        assert min(gaps.values()) > 20, "alike"


def test_gaps_are_no_longer_than_a_clip_allows() -> None:
    spans = {round(seen(view(gap=(1, 9)), numbered(9, 10.0))[2], 3) for _ in range(60)}
    assert spans == {0.3, 0.6, 0.9}
    with pytest.raises(DamagedError, match="0.70 s, expected 0.90 s"):
        view(gap=(3, 9))({"video": numbered(7, 10.0)})
    view(gap=(3, 9))({"video": numbered(8, 10.0)})
    with pytest.raises(UserError, match=r"window.gap is \(3, 2\); expected two ascending"):
        Window(gap=(3, 2))


def test_so_many_seconds_around_the_moment_are_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = Frames.frames
    monkeypatch.setattr(Frames, "frames", lambda self, times, **o: asked.append(list(times)) or real(self, times, **o))
    made = Window(frames=3, fps=10.0, motion="differences", search=0.8)
    made.take(numbered(40, 10.0), 2.0, min_size=16)
    assert asked[-1] == pytest.approx([1.6 + (i + 0.5) / 10 for i in range(8)])
    made.take(numbered(40, 10.0), 3.95, min_size=16)
    assert asked[-1] == pytest.approx([3.2 + (i + 0.5) / 10 for i in range(8)]), "within the clip"
    Window(frames=3, fps=10.0, motion="differences", search=0.1, gap=(1, 2)).take(numbered(40, 10.0), 2.0, min_size=16)
    assert len(asked[-1]) == 5, "at least the longest window"


def test_the_measure_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    real = frame_steps.draw_paced
    monkeypatch.setattr(frame_steps, "draw_paced", lambda *a, **o: told.append((a[1:], o)) or real(*a, **o))
    view(motion="flow", gap=(1, 2))({"video": numbered(20, 10.0)})
    assert told == [((3, [1, 2]), {"measure": "flow"})]


def test_crops_of_a_moving_window_lie_where_it_moves() -> None:
    """Only the top left corner flickers; the rest brightens a little. Anywhere, one crop in ten would show it."""
    crop = Crop(scale=(1 / 16, 1 / 16), ratio=(1.0, 1.0), size=4)
    made = Views(1, video=[Window(frames=3, fps=10.0, motion="differences"), crop])({"video": VideoPreprocess(16)})
    reds = [int(made({"video": numbered(40, 10.0)})["video"][0][0].max()) for _ in range(40)]
    assert sum(red > 100 for red in reds) > 16


def test_a_sound_keeps_its_moment_so_the_film_must() -> None:
    preprocess = {"video": VideoPreprocess(16), "audio": AudioPreprocess(sample_rate=8000, seconds=0.3)}
    Views(1, video=[Window(frames=3)], audio=[])(preprocess).check()
    moving = Views(1, video=[Window(frames=3, motion="flow")], audio=[])(preprocess)
    with pytest.raises(UserError, match="view.video.window.motion chooses another moment than that of audio"):
        moving.check()
