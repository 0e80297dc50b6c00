"""Steps on the frames of a video: which are shown, one channel of each, one brightness, and what has no colour."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from mmssl.errors import DamagedError, UserError
from mmssl.methods.opn import ShuffledFrames
from mmssl.modalities.video import Frames
from mmssl.transforms.frames import Colorful, Level, SplitChannels, Window
from mmssl.transforms.image import Crop, Flip
from mmssl.transforms.video import VideoPreprocess
from mmssl.views.ordered import ordered
from mmssl.views.template import Views


def test_one_channel_of_each_frame_is_shown_three_times() -> None:
    """Each frame's is drawn by itself, all channels alike."""
    frames = torch.randint(256, (3, 6, 4, 5), dtype=torch.uint8)
    seen, alike = Counter[int](), 0
    for _ in range(100):
        shown = SplitChannels()(frames)
        channels = [next(c for c in range(3) if shown[:, t].equal(frames[c, t].expand(3, -1, -1))) for t in range(6)]
        seen.update(channels)
        alike += len(set(channels)) == 1
    assert all(150 < seen[c] < 250 for c in range(3)), "about 200 each"
    assert alike < 5


def test_levelled_frames_by_hand() -> None:
    def level(frame: np.ndarray) -> Any:
        return Level()(torch.from_numpy(frame).permute(2, 0, 1)[:, None])[:, 0].permute(1, 2, 0)

    frame = np.array([[10, 20], [30, 40]], np.uint8)[..., None].repeat(3, 2)
    away = np.array([[-15, -5], [5, 15]]) / np.sqrt(125)
    assert level(frame)[..., 0].tolist() == np.floor(128 + 50 * away).astype(int).tolist()
    assert level(np.full((2, 2, 3), 7, np.uint8)).tolist() == [[[128] * 3] * 2] * 2
    spike = np.zeros((20, 20, 3), np.uint8)
    spike[0, 0] = 255
    assert level(spike).max() == 255
    faint = np.full((2, 2, 3), 7, np.uint8)
    faint[0, 0] = 8
    assert level(faint)[0, 0, 0] == 128 + 37, "noise is not blown up: the deviation counts as 1 at least"


def test_each_frame_is_levelled_on_its_own_over_all_its_channels() -> None:
    frames = torch.randint(256, (3, 5, 7, 6), dtype=torch.uint8)
    frames[:, 2] //= 4
    found = Level()(frames)
    assert found.dtype == torch.uint8
    for t in range(5):
        frame = frames[:, t].numpy()
        expected = (128 + 50 * ((frame - frame.mean()) / frame.std())).clip(0, 255).astype(np.uint8)
        assert np.array_equal(found[:, t], expected)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_all_frames_of_a_clip_are_mirrored_together(share: float) -> None:
    slope = np.arange(16, dtype=np.uint8)[:, None].repeat(3, 1)[None, None].repeat(16, 1).repeat(20, 0) * 10
    slope[:, 8:9] += (np.arange(20, dtype=np.uint8) * 5)[:, None, None, None]
    steps = {"flip": {"p": share}, "split_channels": None, "level": None}
    task = {"search": 2.0, "crop": 8, "fps": 10.0, "side": 16, "jitter": 0}
    made = ordered(ShuffledFrames())({"video": VideoPreprocess(8)}, video={"shuffled_frames": task, **steps})
    ways = []
    for _ in range(150):
        frames = made({"video": Frames(slope, 10.0)})["video"][0].int()
        falls = frames[0, :, 0, 0] > frames[0, :, 0, -1]
        assert falls.all() or not falls.any()
        ways.append(bool(falls[0]))
    assert np.mean(ways) == pytest.approx(share, abs=0.1)


def test_frames_are_split_before_they_are_levelled_and_each_may_be_left_out() -> None:
    """Of frames that are red alone, every channel but one is even, and even frames are 128 throughout."""
    film = np.zeros((30, 16, 16, 3), np.uint8)
    film[..., 0] = np.random.default_rng(0).integers(0, 255, (30, 16, 16))
    task = {"crop": 16, "fps": 10.0, "side": 16, "jitter": 0}

    def shown(**steps: Any) -> torch.Tensor:
        made = ordered(ShuffledFrames())({"video": VideoPreprocess(16)}, video={"shuffled_frames": task, **steps})
        return torch.cat([made({"video": Frames(film, 10.0)})["video"][0] for _ in range(10)], dim=1)

    both = shown()
    assert {128 if f.float().std() == 0 else round(f.float().std().item(), -1) for f in both.unbind(1)} == {128, 50}
    assert both[0].equal(both[2])
    assert {int(f.max()) for f in shown(level=None).unbind(1)} - {*range(240, 256)} == {0}
    colored = shown(split_channels=None)
    assert (colored[0] != colored[1]).any() and colored[1].equal(colored[2])


def counted(frames: int, fps: float) -> Frames:
    """A clip whose frames say their number."""
    return Frames(np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 3), np.uint8), fps)


def test_a_window_has_its_own_frames_whatever_the_encoder_reads() -> None:
    prepare = VideoPreprocess(8, frames=9, seconds=5.0)
    made = Views(2, video=[Window(frames=3, fps=2.0)])({"video": prepare})
    assert made.prepare["video"] == VideoPreprocess(8, frames=3, fps=2.0) and prepare.frames == 9
    starts = set()
    for _ in range(60):
        shown = made({"video": counted(20, 4.0)})
        for view, place in zip(shown["video"], shown["places"]["video"], strict=True):
            numbers = view[0, :, 0, 0].tolist()
            assert numbers == [numbers[0] + 2 * i for i in range(3)]
            starts.add(numbers[0])
            assert place[2, 2] == 1.5 and place[2, 3] == pytest.approx((numbers[0] - 1) / 4, abs=0.26)
    assert starts == set(range(1, 15)), "the middles of thirds of 1.5 s of 5"
    assert [blank.shape for blank in made.blanks("video")] == [(3, 3, 8, 8)] * 2


@pytest.mark.parametrize(("frames", "long_enough"), [(7, True), (6, False)])
def test_of_a_window_half_a_frame_may_lack(frames: int, long_enough: bool) -> None:
    """Four frames at 6 a second last 0.667 s; seven at 12 last 0.583 s, and six 0.5 s."""
    made = Views(1, video=[Window(frames=4, fps=6.0)])({"video": VideoPreprocess(8)})
    if long_enough:
        assert made({"video": counted(frames, 12.0)})["video"][0].shape == (3, 4, 8, 8)
        return
    with pytest.raises(DamagedError, match="0.50 s, expected 0.67 s") as found:
        made({"video": counted(frames, 12.0)})
    assert found.value.reason == "a clip shorter than the window"


def test_all_views_of_a_video_have_one_window() -> None:
    two = Views(1, video=[Window(frames=3)], far=Views(1, video=[Window(frames=5), Crop()]))
    with pytest.raises(UserError, match="windows of their own.*expected the same for all"):
        two({"video": VideoPreprocess(8)})
    one = Views(1, video=[Window(frames=3), Flip()], far=Views(1, video=[Window(frames=3), Crop()]))
    one({"video": VideoPreprocess(8)})


def test_frames_whose_order_is_asked_about_have_no_place_and_nothing_moves_with_them() -> None:
    made = ordered(ShuffledFrames(side=8, crop=8))({"video": VideoPreprocess(8)})
    assert made.blank_places("video") == []
    with pytest.raises(UserError, match="view.fields.boxes moves with an image or video whose frames keep their place"):
        ordered(ShuffledFrames())({"video": VideoPreprocess(8)}, fields={"boxes": "boxes"})


@pytest.mark.parametrize(
    ("coloured", "spread", "shown"), [(256, 12, True), (256, 11, False), (5, 12, True), (1, 255, False)]
)
def test_a_hundredth_of_the_pixels_must_have_colour(coloured: int, spread: int, shown: bool) -> None:
    frames = torch.zeros(3, 4, 256, dtype=torch.uint8)
    frames[1, :, :coloured] = spread
    frames = frames.view(3, 4, 16, 16)
    if shown:
        assert Colorful()(frames) is frames
    else:
        with pytest.raises(DamagedError, match="without colour"):
            Colorful()(frames)
        assert Colorful(chroma=0.0)(frames) is frames
