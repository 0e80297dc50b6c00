"""Image and sound of one moment on a grid, second sounds that are out of sync, and what cannot be shown."""

import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.data.collate import collate
from mmssl.errors import DamagedError, UserError
from mmssl.modalities.audio import Audio, Waveform
from mmssl.modalities.video import Frames, encode
from mmssl.modalities.video import decode as film
from mmssl.transforms import color
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.color import ColorJitter, recolored
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Batch
from mmssl.views.synchronised import (
    EASY,
    HARD,
    NOTICED,
    OFF_GRID,
    SHORT,
    SHORTFALL,
    SILENCE,
    SUPER_HARD,
    Places,
    shifted,
    view,
)

RATE, FPS, SECONDS = 8000, 25, 4.0
IMAGE = {"image": ImagePreprocess(8), "audio": AudioPreprocess(RATE, 0.5)}
VIDEO = {"video": VideoPreprocess(8, frames=10, fps=FPS / 2), "audio": AudioPreprocess(RATE, 0.8)}
WHOLE = {"crop": {"scale": (1.0, 1.0)}, "flip": None}


def plain(template, preprocess, *, steps=WHOLE, **options):
    """Shows what is seen whole, and leaves what is heard as loud as it is."""
    seen = next(key for key in preprocess if key != "audio")
    return template(preprocess, audio={"gain": None}, **{seen: WHOLE | steps}, **options)


def ramp(seconds=SECONDS):
    """A clip and a sound that both say what time it is: brightness and level rise with it."""
    shades = (np.arange(round(seconds * FPS)) * 2).astype(np.uint8)
    pictures = np.broadcast_to(shades[:, None, None, None], (len(shades), 8, 8, 3))
    level = (torch.arange(round(seconds * RATE)) + 0.5) / RATE
    return Frames(np.ascontiguousarray(pictures), FPS), Waveform(level, RATE)


def clip(key, seconds=SECONDS):
    seen, sound = ramp(seconds)
    return {key: seen, "audio": sound}


def heard(samples):
    """The moment in the middle of a window of the ramp, in seconds."""
    return samples.mean().item()


@pytest.mark.parametrize("key, preprocess", [("image", IMAGE), ("video", VIDEO)])
def test_picture_and_sound_are_of_one_moment_on_the_grid(key, preprocess):
    made = plain(view, preprocess)
    half = 0.25 if key == "image" else 0.4
    places = set()
    for _ in range(60):
        shown = made(clip(key))
        assert set(shown) - {"places", "fields"} == {key, "audio"} and len(shown["audio"]) == 1
        moment = heard(shown["audio"][0])
        assert shown[key][0].float().mean().item() / 2 / FPS == pytest.approx(moment, abs=1 / FPS)
        place = (moment - half) / 0.04
        assert place == pytest.approx(round(place), abs=0.01)
        places.add(round(place))
    assert 0 <= min(places) < 12 and max(places) > 70 and max(places) <= (SECONDS - 2 * half) / 0.04


@pytest.mark.parametrize("key, preprocess", [("image", IMAGE), ("video", VIDEO)])
@pytest.mark.parametrize("short", [10.0, 1.0])
def test_files_too_are_of_one_moment(key, preprocess, short, monkeypatch):
    monkeypatch.setattr("mmssl.views.synchronised.SHORT", short)
    pictures, sound = ramp()
    noise = sound.samples.numpy() / SECONDS * np.random.default_rng(0).uniform(-1, 1, len(sound.samples))
    data = encode(pictures.pictures.repeat(4, 1).repeat(4, 2), fps=FPS, audio=noise, sample_rate=RATE)
    for _ in range(3):
        shown = plain(view, preprocess)({key: film(data), "audio": Audio(data)})
        moment = shown["audio"][0].abs().mean().item() / 0.5 * SECONDS
        assert shown[key][0].float().mean().item() / 2 / FPS == pytest.approx(moment, abs=0.15)


def test_every_moment_is_reached():
    made = plain(view, IMAGE, grid=0.1)
    found = {round((heard(made(clip("image", 1.0))["audio"][0]) - 0.25) / 0.1, 2) for _ in range(80)}
    assert found == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}


def test_without_the_guard_only_wrong_sounds_leave_the_grid():
    options = view.guards["time_grid"]
    made = plain(view, IMAGE, **options)
    assert made.shows == {"image": 1, "audio": 2}
    off = []
    for _ in range(20):
        shown = made(clip("image"))
        own, second = ((heard(samples) - 0.25) / 0.04 for samples in shown["audio"])
        assert own == pytest.approx(round(own), abs=0.01) and shown["extra"]["kind"] == OFF_GRID
        off.append(abs(second - round(second)))
    assert max(off) > 0.3


@pytest.mark.parametrize("kind, options", [(HARD, {"hard": 1.0}), (SUPER_HARD, {"hard": 0.0, "super_hard": 1.0})])
def test_shifted_sounds_are_as_far_off_as_their_kind_says(kind, options):
    made = plain(shifted, VIDEO, **options)
    shifts = []
    for _ in range(60):
        shown = made(clip("video"))
        own, second = map(heard, shown["audio"])
        assert shown["extra"]["kind"] == kind
        place = (second - 0.4) / 0.04
        assert place == pytest.approx(round(place), abs=0.01)
        shifts.append(second - own)
    near, far = (0.5, 3.2) if kind == HARD else (0.12, 0.5)
    assert all(near - 1e-3 <= abs(shift) <= far + 1e-3 for shift in shifts)
    assert min(shifts) < 0 < max(shifts) and max(map(abs, shifts)) > 0.4


def test_kinds_come_in_their_shares_and_none_is_the_own_sound_again():
    made = plain(shifted, VIDEO, hard=0.5, super_hard=0.25)
    shown = [made(clip("video")) for _ in range(200)]
    kinds = Counter(int(each["extra"]["kind"]) for each in shown)
    assert 75 < kinds[HARD] < 125 and 30 < kinds[SUPER_HARD] < 70 and kinds.total() == 200
    assert all(s["audio"][0].equal(s["audio"][1]) == (s["extra"]["kind"] == EASY) for s in shown)


def test_a_clip_without_room_to_shift_has_no_shifted_sound():
    made = plain(shifted, VIDEO, hard=1.0)
    assert {int(made(clip("video", 1.2))["extra"]["kind"]) for _ in range(20)} == {EASY}
    assert {int(made(clip("video", 1.4))["extra"]["kind"]) for _ in range(40)} == {EASY, HARD}


def test_the_curriculum_begins_with_easy_ones():
    made = shifted(VIDEO, hard=1.0, easy_until=0.5)
    for progress, kind in ((0.0, EASY), (0.49, EASY), (0.5, HARD), (1.0, HARD)):
        batch = collate([made(clip("video")) for _ in range(3)], made)
        assert batch.views["audio"][1].shape == (3, round(0.8 * RATE))
        made.progress = progress
        assert made.on_device(batch).extra["kind"].tolist() == [kind] * 3


def test_shifted_sounds_become_more_from_the_end_of_the_easy_part_on():
    made = plain(shifted, VIDEO, easy_until=0.2, rise=0.4)
    for progress, share in ((0.1, 0.0), (0.2, 0.0), (0.3, 0.25), (0.5, 0.75), (0.6, 1.0), (1.0, 1.0)):
        kind = torch.tensor([HARD, SUPER_HARD, EASY, OFF_GRID]).repeat(1000)
        made.progress = progress
        found = made.on_device(Batch({"audio": [torch.zeros(4000, 9)] * 2}, extra={"kind": kind})).extra["kind"]
        hard, super_hard, *others = found.view(-1, 4).T
        assert set(hard.tolist()) <= {EASY, HARD} and set(super_hard.tolist()) <= {EASY, SUPER_HARD}
        assert [(x > 0).float().mean().item() for x in (hard, super_hard)] == pytest.approx([share] * 2, abs=0.06)
        assert [x.unique().tolist() for x in others] == [[EASY], [OFF_GRID]]
        if share == 0.25:  # each is drawn by itself
            assert ((hard > 0) & (super_hard > 0)).float().mean().item() == pytest.approx(share**2, abs=0.03)


def speed_of(samples, seconds=0.8):
    """How many times as fast the ramp is heard, by its level's rise."""
    return (samples[-100] - samples[100]).item() / (seconds - 200 / RATE)


@pytest.mark.parametrize("factor", [0.5, 1.6])
def test_a_clip_is_seen_and_heard_at_one_speed(factor):
    """Of another length, about the same moment, on a grid of the time in which it is shown, and within the clip."""
    made = plain(view, VIDEO, speed=(factor, factor), grid=0.1)
    places = []
    for _ in range(150):
        shown = made(clip("video"))
        times = shown["video"][0][0, :, 0, 0].float() / 2 / FPS  # when its frames begin, in the clip as it is
        moment = heard(shown["audio"][0])
        assert len(shown["audio"][0]) == 0.8 * RATE and speed_of(shown["audio"][0]) == pytest.approx(factor, abs=1e-3)
        middle = torch.arange(10) * 0.08 + 0.04 - 0.4
        assert (moment + middle * factor - times).tolist() == pytest.approx([0.5 / FPS] * 10, abs=0.5 / FPS + 1e-4)
        span, start = shown["places"]["video"][0][2, 2:].tolist()
        assert (span, start + span / 2) == pytest.approx((0.8 * factor, moment), abs=1e-3)
        places.append((moment / factor - 0.4) / 0.1)
    assert places == pytest.approx(list(map(round, places)), abs=0.01)
    assert (min(places), max(places)) == pytest.approx((0, (SECONDS / factor - 0.8) // 0.1), abs=3)


def test_both_sounds_of_a_clip_have_the_speed_that_is_drawn_for_it():
    for options, kind in (({"hard": 1.0}, HARD), ({"hard": 0.0, "super_hard": 1.0}, SUPER_HARD)):
        made, factors = plain(shifted, VIDEO, speed=(0.6, 1.5), **options), []
        for _ in range(60):
            shown = made(clip("video"))
            own, second = map(speed_of, shown["audio"])
            times = shown["video"][0][0, :, 0, 0].float() / 2 / FPS
            assert own == pytest.approx(second, abs=2e-3) and shown["extra"]["kind"] == kind
            assert (times[-1] - times[0]).item() / 0.72 == pytest.approx(own, abs=0.04 / 0.72 + 1e-3)
            shift = abs(heard(shown["audio"][1]) - heard(shown["audio"][0])) / own
            assert (shift >= 0.5 - 1e-3) if kind == HARD else (0.12 - 1e-3 <= shift < 0.5)
            factors.append(own)
        assert 0.6 <= min(factors) + 1e-3 < 0.7 and 1.4 < max(factors) <= 1.501


def test_a_clip_is_no_faster_than_it_is_long():
    made = plain(view, VIDEO, speed=(0.5, 2.0))
    factors = [speed_of(made(clip("video", 1.0))["audio"][0]) for _ in range(60)]
    assert min(factors) < 0.65 and 1.1 < max(factors) <= 1.251
    with pytest.raises(DamagedError, match="0.67 s of 0.80 s"):
        plain(view, VIDEO, speed=(1.5, 2.0))(clip("video", 1.0))


def test_one_frame_and_its_sound_are_of_one_moment_at_any_speed():
    made = plain(view, IMAGE, speed=(0.5, 2.0))
    for _ in range(20):
        shown = made(clip("image"))
        moment = heard(shown["audio"][0])
        assert shown["image"][0].float().mean().item() / 2 / FPS == pytest.approx(moment, abs=1 / FPS)
    still = Image.fromarray(np.full((28, 28), 200, np.uint8))
    shown = [made({"image": still, "audio": ramp()[1]}) for _ in range(30)]
    factors = [speed_of(each["audio"][0], 0.5) for each in shown]
    assert min(factors) < 0.7 and max(factors) > 1.7 and all(each["image"][0].eq(200).all() for each in shown)
    short = plain(view, IMAGE, speed=(2.0, 2.0))({"image": still, "audio": Waveform(torch.ones(RATE // 2), RATE)})
    assert short["audio"][0].mean().item() == pytest.approx(0.5)


def test_a_still_picture_takes_its_sound_at_any_moment_and_a_short_one_ends_in_silence():
    made = plain(view, IMAGE)
    digit = Image.fromarray(np.full((28, 28), 200, np.uint8))
    shown = made({"image": digit, "audio": Waveform(torch.ones(RATE // 4), RATE)})
    assert shown["image"][0].float().mean() == 200
    assert shown["audio"][0].tolist() == [1.0] * (RATE // 4) + [0.0] * (RATE // 4)
    moments = {heard(made({"image": digit, "audio": ramp()[1]})["audio"][0]) for _ in range(20)}
    assert len(moments) > 10


def silent_film():
    return film(encode(np.zeros((25, 16, 16, 3), np.uint8), fps=FPS))


@pytest.mark.parametrize(
    "sample, reason",
    [
        ({"video": ramp()[0]}, "a video without sound"),
        ({"video": silent_film(), "audio": None}, "a video without sound"),
        ({"audio": ramp()[1]}, "sound without video"),
        (clip("video", 0.5), "a clip shorter than the window"),
        ({"video": ramp(4.0)[0], "audio": ramp(0.6)[1]}, "a clip shorter than the window"),
        ({"video": ramp()[0], "audio": Waveform(torch.full((4 * RATE,), 1e-6), RATE)}, "silent sound"),
    ],
)
@pytest.mark.parametrize("kind", [view, shifted])
def test_what_cannot_be_shown_is_damaged(kind, sample, reason):
    with pytest.raises(DamagedError) as caught:
        kind(VIDEO)(sample)
    assert caught.value.reason == reason


def test_a_track_may_end_a_little_early():
    shown = plain(view, VIDEO)({"video": ramp(0.8)[0], "audio": ramp(0.77)[1]})
    assert shown["audio"][0][-10:].tolist() == [0.0] * 10


@pytest.mark.parametrize(
    "preprocess, options, message",
    [
        (IMAGE, {"grid": 0.0}, "grid is 0.0"),
        (IMAGE, {"image": {"flip": {"p": 2.0}}}, "flip.p is 2.0"),
        (IMAGE | VIDEO, {}, "shows image or video with audio"),
        ({"audio": IMAGE["audio"]}, {}, "shows image or video with audio"),
        ({**VIDEO, "video": VideoPreprocess(8)}, {}, "give it fps"),
        (VIDEO, {"hard": 0.8, "super_hard": 0.4}, "hard is 0.8 and super_hard 0.4"),
        (VIDEO, {"apart": 0.1}, "apart is 0.1"),
        (VIDEO, {"speed": (1.2, 0.8)}, r"speed is \(1.2, 0.8\)"),
        (VIDEO, {"rise": 1.1}, "rise is 1.1"),
        (VIDEO, {"rise": -0.1}, "rise is -0.1"),
    ],
)
def test_mistakes(preprocess, options, message):
    with pytest.raises(UserError, match=message):
        shifted(preprocess, **options)


def test_views_follow_the_seed_and_pickle():
    made = pickle.loads(pickle.dumps(shifted(VIDEO, hard=0.5, video={"crop": {"scale": (0.3, 0.6)}})))

    def once(seed):
        random.seed(seed)
        shown = made(clip("video"))
        return torch.cat([shown["video"][0].flatten().float(), *shown["audio"]])

    assert once(1).equal(once(1)) and not once(1).equal(once(2))


@pytest.mark.parametrize("kind", [view, shifted])
def test_pictures_are_recoloured_as_the_options_say(kind):
    made = plain(kind, IMAGE, steps={"grayscale": {"p": 1.0}})
    red = torch.zeros(2, 3, 8, 8)
    red[:, 0] = 1
    batch = Batch({"image": [red], "audio": [torch.zeros(2, 9)] * 2}, extra={"kind": torch.tensor([1, 2])})
    shown = made.on_device(batch).views["image"][0]
    torch.testing.assert_close(shown, torch.full((2, 3, 8, 8), 0.299))


@pytest.mark.parametrize("kind", [view, shifted])
@pytest.mark.parametrize("name", ["color_jitter", "blur"])
def test_pictures_are_recoloured_once(kind, name):
    """A second pass would jitter twice as much, and blur what is blurred."""
    made, x = plain(kind, IMAGE, steps={name: {"p": 1.0}}), torch.rand(4, 3, 40, 40)
    batch = Batch({"image": [x], "audio": [torch.zeros(4, 9)] * 2}, extra={"kind": torch.tensor([1, 2, 0, 1])})
    torch.manual_seed(3)
    shown = made.on_device(batch).views["image"][0]
    torch.manual_seed(3)
    once = color.blur(x, share=1.0) if name == "blur" else recolored(x, [ColorJitter(p=1.0)])
    torch.testing.assert_close(shown, once)


@pytest.mark.parametrize(
    ("place", "near", "far", "expected"),
    [
        (5, 0.3, None, [0, 1, 2, 8, 9, 10]),
        (5, 0.1, 0.3, [3, 4, 6, 7]),
        (0, 0.2, 0.4, [2, 3]),
        (10, 0.95, None, [0]),
        (5, 0.6, None, []),
    ],
)
def test_places_apart(place, near, far, expected):
    places = Places(1.0, 0.1, 10)
    assert places.apart(place, near, *(() if far is None else (far,))) == expected
    assert [places.time(p) for p in (-3, 0, 2.5, 10, 11)] == pytest.approx([1.0, 1.0, 1.25, 2.0, 2.0])


@pytest.mark.parametrize(
    ("seen", "heard", "preprocess", "expected"),
    [
        (4.0, 4.0, IMAGE, Places(0.25, 0.1, 35)),
        (3.0, 4.0, IMAGE, Places(0.25, 0.1, 25)),
        (4.0, 3.0, IMAGE, Places(0.25, 0.1, 25)),
        (4.0, 4.0, VIDEO, Places(0.4, 0.1, 32)),
        (0.5, 0.46, IMAGE, Places(0.25, 0.1, 0)),
        (0.56, 1.0, IMAGE, Places(0.25, 0.1, 0)),
        (0.6, 1.0, IMAGE, Places(0.25, 0.1, 1)),
        (None, 1.0, IMAGE, Places(0.25, 0.1, 5)),
        (None, 0.1, IMAGE, Places(0.25, 0.1, 0)),
    ],
)
def test_where_the_middle_of_windows_may_lie(seen, heard, preprocess, expected):
    made = plain(view, preprocess, grid=0.1)
    clip_ = Image.new("RGB", (9, 9)) if seen is None else ramp(seen)[0]
    assert made._places(clip_, ramp(heard)[1]) == expected
    if seen is not None:
        with pytest.raises(DamagedError, match="0.44 s of 0.[58]0 s"):
            made._places(clip_, ramp(0.44)[1])


def test_what_is_told_apart_from_silence():
    for level, heard_ in ((9.9e-5, False), (1.1e-4, True)):
        sample = {"image": Image.new("RGB", (9, 9)), "audio": Waveform(torch.full((RATE,), level), RATE)}
        if heard_:
            assert plain(view, IMAGE)(sample)["audio"][0].max() == pytest.approx(level)
        else:
            with pytest.raises(DamagedError, match="silent sound"):
                plain(view, IMAGE)(sample)
    loud = {"image": Image.new("RGB", (9, 9)), "audio": Waveform(torch.full((RATE,), -0.5), RATE)}
    assert plain(view, IMAGE)(loud)["audio"][0].min() == -0.5
    assert (SILENCE, SHORTFALL, NOTICED, SHORT) == (1e-4, 0.05, 0.12, 10.0)
    assert (OFF_GRID, EASY, HARD, SUPER_HARD) == (-1, 0, 1, 2)


def test_bounds_of_shifts():
    shifted(VIDEO, hard=0.6, super_hard=0.4, apart=0.121)
    shifted(VIDEO, hard=0.0, super_hard=0.0)
    for bad in ({"hard": -0.01}, {"super_hard": -0.01}, {"hard": 0.7, "super_hard": 0.31}, {"apart": 0.12}):
        with pytest.raises(UserError, match="hard is|apart is"):
            shifted(VIDEO, **bad)


def test_off_the_grid_the_second_sound_lies_up_to_half_a_step_from_any_place():
    made = plain(view, IMAGE, grid=0.5, negatives_on_grid=False)
    seconds = [(heard(made(clip("image"))["audio"][1]) - 0.25) / 0.5 for _ in range(200)]
    inside = [s for s in seconds if 0.01 < s < 6.99]
    assert np.mean(inside) == pytest.approx(3.5, abs=0.5)
    off = [s - round(s) for s in inside]
    assert min(off) < -0.4 and max(off) > 0.4
    assert all(s >= -1e-3 and s <= 7.001 for s in seconds)
    off = plain(shifted, VIDEO, grid=0.1, hard=0.5, super_hard=0.0, negatives_on_grid=False)
    kinds = Counter(int(off(clip("video"))["extra"]["kind"]) for _ in range(60))
    assert set(kinds) == {HARD, OFF_GRID}


def test_super_hard_sounds_overlap_their_own():
    """Nearer than the window lasts, where that is less than `apart`."""
    made = plain(shifted, VIDEO, grid=0.1, hard=0.0, super_hard=1.0, apart=2.0)
    shifts = []
    for _ in range(80):
        own, second = map(heard, made(clip("video"))["audio"])
        shifts.append(abs(second - own))
    assert min(shifts) == pytest.approx(0.2, abs=1e-3)
    assert max(shifts) == pytest.approx(0.7, abs=1e-3)
