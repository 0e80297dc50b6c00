"""A clip and a sound at another speed, against hand-made ones that tell what time it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmssl.modalities.audio import Waveform
from mmssl.modalities.sped import Sped, stretched
from mmssl.modalities.video import Frames

RATE, FPS = 8000, 10
FILM = Frames(np.tile(np.arange(40, dtype=np.uint8)[:, None, None, None], (1, 6, 4, 3)), FPS)  # 4 s
RAMP = Waveform((torch.arange(4 * RATE) + 0.5) / RATE, RATE)  # its level is its time


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.6])
def test_images_and_sound_are_those_of_the_same_time(factor: float) -> None:
    film, sound = Sped(FILM, factor), Sped(RAMP, factor)
    assert film.duration == sound.duration == pytest.approx(4 / factor) and film.size == (4, 6)
    times = [0.51 / factor, 1.77 / factor, 3.99 / factor]
    assert film.frames(times)[:, 0, 0, 0].tolist() == [5, 17, 39]
    assert film.frames(times, min_size=2).shape == (3, 3, 2, 3)
    heard = sound.read(sample_rate=RATE, start=1.0, seconds=0.75)
    assert len(heard) == 6000
    expected = factor * (1.0 + (torch.arange(6000) + 0.5) / RATE)
    torch.testing.assert_close(heard[5:-5], expected[5:-5], rtol=0, atol=1e-4)  # whose edges have no neighbours
    whole = sound.read(sample_rate=RATE, start=2.0)
    assert len(whole) == pytest.approx((4 - 2 * factor) / factor * RATE, abs=1)
    assert whole[[100, -100]].tolist() == pytest.approx([(2 + 100 / RATE) * factor, 4 - 100 / RATE * factor], abs=2e-4)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_the_pitch_is_that_of_the_speed(factor: float) -> None:
    time = (torch.arange(2 * RATE) + 0.5) / RATE
    sound = Sped(Waveform((2 * math.pi * 200 * time).sin(), RATE), factor)
    heard = sound.read(sample_rate=RATE, start=0.1, seconds=1.0)
    assert heard.abs().max() > 0.99 and int(torch.fft.rfft(heard).abs().argmax()) == 200 * factor


def test_stretched_by_hand() -> None:
    assert stretched(torch.tensor([0.0, 4.0]), 4).tolist() == [0, 1, 3, 4]
    assert stretched(torch.tensor([0.0, 2.0, 4.0, 8.0]), 2).tolist() == [1, 6]
    assert stretched(torch.tensor([3.0, 1.0]), 2).tolist() == [3, 1]
