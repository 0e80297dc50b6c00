"""One view of each modality, drawn anew each time, with image and sound of one moment."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.modalities import audio as sounds
from mmssl.modalities.audio import Audio, Waveform
from mmssl.modalities.points import Cloud
from mmssl.modalities.video import Frames, Video, encode
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.points import PointsPreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.views.single import view as single

RATE, FPS = 8000, 20


def seeded(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def ramp(seconds=10.0):
    """A clip and a sound that both say what time it is: brightness and level rise from 0 to 1."""
    shades = np.linspace(0, 250, int(seconds * FPS)).astype(np.uint8)
    pictures = np.broadcast_to(shades[:, None, None, None], (len(shades), 8, 8, 3))
    return Frames(np.ascontiguousarray(pictures), FPS), Waveform(torch.linspace(0, 1, int(seconds * RATE)), RATE)


PREPROCESS = {
    "image": ImagePreprocess(8),
    "video": VideoPreprocess(8, frames=10, fps=FPS),
    "audio": AudioPreprocess(RATE, 0.5),
    "points": PointsPreprocess(20),
}


def test_picture_and_sound_are_of_one_moment():
    clip, sound = ramp()
    moments = []
    for seed in range(20):
        seeded(seed)
        shown = single(PREPROCESS)({"image": clip, "video": clip, "audio": sound})
        moment = shown["audio"][0].mean().item()
        assert shown["video"][0].float().mean() / 250 == pytest.approx(moment, abs=0.01)
        assert shown["image"][0].float().mean() / 250 == pytest.approx(moment, abs=0.01)
        moments.append(moment)
    assert min(moments) < 0.2 and max(moments) > 0.8


def test_files_too_are_of_one_moment():
    clip, sound = ramp(4.0)
    pictures = np.ascontiguousarray(np.repeat(np.repeat(clip.pictures, 4, 1), 4, 2))
    noise = sound.samples.numpy() * np.random.default_rng(0).uniform(-1, 1, len(sound.samples))
    data = encode(pictures, fps=FPS, audio=noise, sample_rate=RATE)
    for seed in range(3):
        seeded(seed)
        shown = single(PREPROCESS)({"video": Video(data), "audio": Audio(data)})
        heard = shown["audio"][0].abs().mean().item() / 0.5
        assert shown["video"][0].float().mean() / 250 == pytest.approx(heard, abs=0.05)


def test_what_is_absent_or_unwanted_is_left_out():
    picture = Image.new("RGB", (30, 20))
    shown = single(PREPROCESS)({"image": picture, "text": "hi", "audio": None, "__key__": "1"})
    assert set(shown) - {"places", "fields"} == set(shown["places"]) == {"image"}
    assert single(PREPROCESS)({"__key__": "1"}) == {}


def test_views_follow_the_seed():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    cloud = Cloud(np.random.default_rng(0).normal(size=(100, 3)))
    made = single(
        PREPROCESS,
        image={"crop": {"scale": (0.3, 0.5)}, "flip": {}},
        points={"rotate": {"axis": "any"}, "jitter": {"sigma": 0.1}},
        audio={"gain": {"decibels": 3.0}},
    )
    sample = {"image": noise, "points": cloud, "audio": ramp()[1]}

    def once(seed):
        seeded(seed)
        shown = made(sample)
        return {name: shown[name][0] for name in sample}

    first, again, other = once(1), once(1), once(2)
    assert first["points"].shape == (20, 3)
    for name in first:
        assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name])


def test_by_default_sides_and_colours_stay():
    halves = np.zeros((40, 40, 3), np.uint8)
    halves[:, :20, 0], halves[:, 20:, 1] = 255, 255
    for _ in range(20):
        shown = single(PREPROCESS)({"image": Image.fromarray(halves)})["image"][0]
        assert shown[0, :, 0].min() > 250 and shown[1, :, -1].min() > 250 and shown[2].max() == 0
    flipped = single(PREPROCESS, image={"flip": {"p": 1.0}})({"image": Image.fromarray(halves)})["image"][0]
    assert flipped[1, :, 0].min() > 250


def test_a_short_clip_is_shown_whole():
    clip, sound = ramp(0.3)
    shown = single(PREPROCESS)({"video": clip, "audio": sound})
    assert shown["video"][0].shape == (3, 10, 8, 8) and shown["audio"][0].shape == (RATE // 2,)
    assert shown["audio"][0][: int(0.3 * RATE)].equal(sound.samples)


def test_a_whole_clip_needs_no_room():
    clip, sound = ramp(2.0)
    made = single({"video": VideoPreprocess(8, frames=4), "audio": AudioPreprocess(RATE, 0.5)})
    starts = {made({"video": clip, "audio": sound})["audio"][0][0].item() for _ in range(5)}
    assert len(starts) == 5


def test_pickles():
    again = pickle.loads(pickle.dumps(single(PREPROCESS)))
    assert again({"image": Image.new("RGB", (30, 20))})["image"][0].shape == (3, 8, 8)


def test_windows_of_a_short_sound_are_cut_from_one_reading(monkeypatch: pytest.MonkeyPatch):
    data = sounds.encode(ramp(1.5)[1].samples, sample_rate=RATE)
    reads, read = [], Audio.read
    monkeypatch.setattr(Audio, "read", lambda self, **how: reads.append(how) or read(self, **how))
    shown = []
    for read_whole in (True, False):
        if not read_whole:
            monkeypatch.setattr(AudioPreprocess, "whole", lambda self, raw, longest: self.opened(raw))
        reads.clear()
        seeded(5)
        shown.append(single({"audio": PREPROCESS["audio"]}, views=2)({"audio": Audio(data)})["audio"])
        assert len(reads) == (1 if read_whole else 2)
    for one, other in zip(*shown, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)
    assert not torch.equal(*shown[0])
