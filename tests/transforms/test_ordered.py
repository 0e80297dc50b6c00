"""Views of frames in and out of order, on clips whose images tell when they are: a square that moves right."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from mmssl.errors import DamagedError, UserError
from mmssl.methods.odd_one_out import OddSequence
from mmssl.methods.opn import ORDERS, ShuffledFrames
from mmssl.methods.shuffle_and_learn import OrderVerification
from mmssl.modalities.video import Frames
from mmssl.transforms.base import step_name
from mmssl.transforms.motion import draw_window, flow_length, motion_maps
from mmssl.transforms.ordered import orders
from mmssl.transforms.video import VideoPreprocess
from mmssl.views.ordered import ordered

SIZE = 64
PLAIN = {"jitter": 0, "fps": 25.0, "side": SIZE, "crop": SIZE}


@cache
def clip(pictures: int = 52) -> Frames:
    """A red square on a blue floor, one pixel further right in every image."""
    shown = np.zeros((pictures, SIZE, SIZE, 3), dtype=np.uint8)
    shown[..., 2] = np.arange(SIZE) * 3
    for time in range(pictures):
        shown[time, 24:36, time : time + 12, 0] = 250
    return Frames(shown, 25.0)


def moments(video: torch.Tensor) -> list[int]:
    """Reads off when each frame of (3, T, H, W) was taken."""
    return [int((frame > 125).any(dim=0).int().argmax()) for frame in video[0]]


def view(kind: type, *, steps: dict[str, Any] | None = None, **options: Any) -> Any:
    """A task's view, whose frames no other step changes than these."""
    off = {"flip": None, "split_channels": None, "level": None}
    given = {"video": {step_name(kind): {**PLAIN, **options}, **off, **(steps or {})}}
    return ordered(kind())({"video": VideoPreprocess(size=SIZE)}, **given)


def test_four_frames_are_shuffled_and_the_target_names_their_order() -> None:
    shown, seen, gaps = view(ShuffledFrames), Counter(), set()
    for _ in range(200):
        sample = shown({"video": clip()})
        (video,) = sample["video"]
        assert video.shape == (3, 4, SIZE, SIZE) and video.dtype == torch.uint8
        times = moments(video)
        assert sample["extra"]["order"].tolist() == [np.argsort(np.argsort(times)).tolist()]
        sorted_ = [times[place] for place in ORDERS[int(sample["target"])]]
        assert sorted_ in (sorted(times), sorted(times)[::-1])
        gaps |= set(np.diff(sorted(times)).tolist())
        seen[int(sample["target"])] += 1
        assert min(times) > 0 and max(times) < 51  # neither the first image nor the last
    assert set(seen) == set(range(12)) and max(seen.values()) < 40
    assert gaps == {3, 4, 5, 6, 7}  # of 0.1 to 0.3 s at 25 fps


def test_there_are_half_as_many_orders_as_permutations() -> None:
    assert len(ORDERS) == 12
    both = {*ORDERS, *(order[::-1] for order in ORDERS)}
    assert both == set(itertools.permutations(range(4)))


def test_every_frame_shows_one_channel_of_its_own() -> None:
    chosen = set()
    for _ in range(8):
        (video,) = view(ShuffledFrames, steps={"split_channels": {}})({"video": clip()})["video"]
        assert (video == video[:1]).all()
        brightest = [int(frame[0].max()) for frame in video.unbind(1)]
        assert set(brightest) <= {250, 189, 0}
        chosen.add(tuple(brightest))
    assert any(len(set(brightest)) > 1 for brightest in chosen)


def test_frames_are_cut_a_few_pixels_apart_unless_the_guard_is_down() -> None:
    floors = set()
    for _ in range(4):
        (video,) = view(ShuffledFrames, jitter=3, crop=48)({"video": clip()})["video"]
        starts = {int(frame[2, 0, 0]) for frame in video.unbind(1)}  # blue tells the column
        floors.add(len(starts))
        (video,) = view(ShuffledFrames, crop=48)({"video": clip()})["video"]
        assert len({int(frame[2, 0, 0]) for frame in video.unbind(1)}) == 1
    assert max(floors) > 1


def test_each_cut_is_off_by_up_to_the_jitter_either_way() -> None:
    picture = np.stack([*np.mgrid[:SIZE, :SIZE], np.zeros((SIZE, SIZE))], axis=2).astype(np.uint8)
    cuts = [view(ShuffledFrames, jitter=3, crop=48).tasks["video"]._cut(picture, (32, 34), 48) for _ in range(200)]
    assert {cut.shape for cut in cuts} == {(48, 48, 3)}
    assert {int(cut[0, 0, 0]) for cut in cuts} == set(range(7, 14))  # rows about 34 - 24
    assert {int(cut[0, 0, 1]) for cut in cuts} == set(range(5, 12))  # columns about 32 - 24
    edge = [view(ShuffledFrames, jitter=3, crop=48).tasks["video"]._cut(picture, (0, 64), 48) for _ in range(200)]
    assert {int(cut[0, 0, 1]) for cut in edge} == set(range(7)) and {int(cut[0, 0, 0]) for cut in edge} == {
        *range(10, 17)
    }


@pytest.mark.parametrize(("mirror", "expected"), [(0.0, {False}), (0.5, {False, True}), (1.0, {True})])
def test_all_frames_of_a_clip_are_mirrored_or_none(mirror: float, expected: set[bool]) -> None:
    seen = set()
    for _ in range(12):
        (video,) = view(ShuffledFrames, steps={"flip": {"p": mirror}})({"video": clip()})["video"]
        floor = video[2, :, 0].int()  # blue, which grows to the right
        turned = {bool(row[0] > row[-1]) for row in floor}
        assert len(turned) == 1
        seen |= turned
    assert seen == expected


def test_levelled_frames_have_one_brightness_and_contrast() -> None:
    shown = clip()
    fading = Frames((shown.pictures * np.linspace(1, 0.3, 52)[:, None, None, None]).astype(np.uint8), 25.0)
    for level, spread in ((True, 3.0), (False, None)):
        (video,) = view(ShuffledFrames, steps={"level": {} if level else None}, gap=(0.4, 0.4))({"video": fading})[
            "video"
        ]
        means = video.float().mean((0, 2, 3))
        assert (means.max() - means.min() < spread) if spread else (means.max() - means.min() > 5)


def test_without_random_times_the_window_begins_with_the_file() -> None:
    for _ in range(3):
        (video,) = view(ShuffledFrames, random_times=False)({"video": clip()})["video"]
        assert sorted(moments(video)) == [0, 8, 16, 24] or sorted(moments(video)) == [0, 7, 14, 21]


def test_verification_keeps_both_ends_and_only_the_middle_decides() -> None:
    shown, answers = view(OrderVerification, span=(0.4, 0.6), outside=(0.2, 0.4)), []
    for _ in range(200):
        sample = shown({"video": clip()})
        first, middle, last = moments(sample["video"][0])
        low, high = min(first, last), max(first, last)
        assert 9 <= high - low <= 16
        between = low < middle < high
        assert between == bool(sample["target"])
        if not between:  # a or e, so near to the ends as the option says
            assert 5 <= min(abs(middle - low), abs(middle - high)) <= 10
        ranks = torch.tensor([first, middle, last]).argsort().argsort()
        assert sample["extra"]["order"].tolist() == [ranks.tolist()]
        answers.append((bool(sample["target"]), first < last))
    assert 0.15 < np.mean([yes for yes, _ in answers]) < 0.35
    assert 0.4 < np.mean([forward for _, forward in answers]) < 0.6


def test_without_fixed_ends_the_wrong_orders_end_elsewhere() -> None:
    shown = view(OrderVerification, span=(0.4, 0.6), outside=(0.2, 0.4), fixed_ends=False, positives=0.01)
    distances = []
    for _ in range(30):
        first, middle, last = moments(shown({"video": clip()})["video"][0])
        assert not min(first, last) < middle < max(first, last)
        distances.append(abs(first - last))
    assert min(distances) < 9


def test_one_sequence_is_odd() -> None:
    shown = view(OddSequence, sequences=3, frames=4, window=(0.5, 0.8))
    for _ in range(40):
        sample = shown({"video": clip()})
        times = [moments(video) for video in sample["video"]]
        inorder = [t in (sorted(t), sorted(t)[::-1]) for t in times]
        assert inorder == [number != int(sample["target"]) for number in range(3)]
        ranks = [np.argsort(np.argsort(t)).tolist() for t in times]
        assert sample["extra"]["order"].tolist() == ranks
    assert shown.shows == {"video": 3} and shown.chance == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ShuffledFrames, {}),
        (OrderVerification, {"span": (0.4, 0.6), "outside": (0.2, 0.4)}),
        (OddSequence, {"window": (0.5, 0.8)}),
    ],
)
def test_where_near_means_near_in_time_nearness_answers(kind: type, options: dict[str, Any]) -> None:
    shown = view(kind, **options)
    for _ in range(30):
        sample = shown({"video": clip()})
        times = torch.tensor([moments(video) for video in sample["video"]]).float()
        distances = (times[:, :, None] - times[:, None]).abs()
        assert shown.tasks["video"].by_nearness(distances[None])[0] == sample["target"]


@pytest.mark.parametrize("kind", [ShuffledFrames, OrderVerification, OddSequence])
def test_a_still_or_short_clip_is_damaged(kind: type) -> None:
    still = Frames(np.tile(clip(1).pictures, (200, 1, 1, 1)), 25.0)
    with pytest.raises(DamagedError) as found:
        view(kind)({"video": still})
    assert found.value.reason == "clip without motion"
    with pytest.raises(DamagedError) as found:
        view(kind)({"video": clip(8)})
    assert found.value.reason == "clip shorter than the window"


def test_the_crop_is_where_it_moves() -> None:
    pictures = np.random.default_rng(0).integers(0, 120, (1, 120, 200, 3), dtype=np.uint8).repeat(40, axis=0)
    for time in range(40):
        pictures[time, 70:80, 150 + time // 2 : 160 + time // 2] = 255
    shown = view(ShuffledFrames, side=120, crop=60)
    for _ in range(5):
        (video,) = shown({"video": Frames(pictures, 25.0)})["video"]
        assert ((video > 250).all(dim=0).flatten(1).sum(dim=1) > 60).all()


def test_windows_are_drawn_as_often_as_they_move() -> None:
    maps = torch.zeros(20, 4, 4)
    maps[12:14] = 1.0
    assert {draw_window(maps, 3) for _ in range(50)} <= {10, 11, 12, 13}


@pytest.mark.parametrize("measure", ["differences", "flow"])
def test_motion_is_measured_where_it_is(measure: Any) -> None:
    maps = motion_maps(clip().pictures[:3], measure=measure)
    assert maps.shape == (2, 32, 32)
    assert maps[0, 12:18, :9].mean() > 5 * maps[0, :, 20:].mean()


def test_the_flow_of_a_shifted_wave_is_its_shift() -> None:
    x = torch.arange(40.0)
    wave = torch.stack([(0.3 * (x - s)).sin()[None] * 100 + 30 * (0.4 * x).cos()[:, None] for s in (0.0, 0.7)])
    assert flow_length(wave)[0, 5:-5, 5:-5].median() == pytest.approx(0.7, abs=0.08)


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="expected a crop within the image"):
        view(ShuffledFrames, crop=80)
    with pytest.raises(UserError, match="fps is 0"):
        view(ShuffledFrames, fps=0.0)
    with pytest.raises(UserError, match="positives is 1.0; expected float above 0 and below 1"):
        view(OrderVerification, positives=1.0)
    with pytest.raises(UserError, match="sequences is 1; expected int of at least 2"):
        view(OddSequence, sequences=1)
    with pytest.raises(UserError, match="gap is"):
        view(ShuffledFrames, gap=(0.3, 0.1))


def test_every_guard_can_be_let_down() -> None:
    for kind in (ShuffledFrames, OrderVerification, OddSequence):
        template = ordered(kind())
        for down in template.guards.values():
            template({"video": VideoPreprocess(size=SIZE)}, **down)
    assert len(orders(3)) == 3
