"""What each operation does to a sound, and which part of it an encoder hears."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from mmssl.modalities import audio as sounds
from mmssl.modalities.audio import Audio, Waveform
from mmssl.transforms import audio
from mmssl.transforms.audio import AudioPreprocess

RAMP = torch.arange(8.0)


def decibels(before: torch.Tensor, after: torch.Tensor) -> float:
    return 20 * math.log10(float(after.norm() / before.norm()))


@pytest.mark.parametrize(("given", "times"), [(20.0, 10.0), (-20.0, 0.1), (6.0, 1.99526), (0.0, 1.0)])
def test_gain_is_in_decibels_of_amplitude(given: float, times: float) -> None:
    torch.testing.assert_close(audio.gain(RAMP, decibels=(given, given)), RAMP * times)


def test_gain_is_uniform_over_both_signs() -> None:
    default = [decibels(RAMP, audio.gain(RAMP)) for _ in range(1000)]
    assert [min(default), max(default)] == pytest.approx([-6, 6], abs=0.1)
    assert np.mean(default) == pytest.approx(0, abs=0.4)
    assert np.std(default) == pytest.approx(12 / math.sqrt(12), abs=0.2), "of a uniform distribution"
    louder = [decibels(RAMP, audio.gain(RAMP, decibels=(1.0, 3.0))) for _ in range(500)]
    assert [min(louder), max(louder)] == pytest.approx([1, 3], abs=0.05)


LINEAR = {  # sample i of the played sound is taken at (i + 0.5) * factor - 0.5, between two neighbours
    2.0: [0, 0, 0.5, 2.5, 4.5, 6.5, 0, 0],
    0.5: [1.75, 2.25, 2.75, 3.25, 3.75, 4.25, 4.75, 5.25],
    1.0: [0, 1, 2, 3, 4, 5, 6, 7],
    8.0: [0, 0, 0, 3.5, 0, 0, 0, 0],
    100.0: [0, 0, 0, 3.5, 0, 0, 0, 0],
}


@pytest.mark.parametrize("factor", LINEAR)
def test_speed_by_hand(factor: float) -> None:
    assert audio.speed(RAMP, factor=factor).tolist() == pytest.approx(LINEAR[factor])


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
def test_speed_multiplies_the_pitch_and_keeps_the_middle(factor: float) -> None:
    rate, pitch = 8000, 200
    time = (torch.arange(rate) + 0.5) / rate
    played = audio.speed((2 * math.pi * pitch * time).sin(), factor=factor)
    assert len(played) == rate
    heard = min(1.0, 1 / factor)
    silent = round((1 - heard) / 2 * rate)
    assert not played[:silent].any()
    assert not played[rate - silent :].any()
    middle = played[silent : rate - silent]
    assert (middle[1:].sign() != middle[:-1].sign()).sum() / 2 == pytest.approx(heard * pitch * factor, abs=1)
    click = torch.zeros(rate)
    click[rate // 2 + 800 : rate // 2 + 801] = 1
    assert int(audio.speed(click, factor=factor).argmax()) == pytest.approx(rate / 2 + 800 / factor, abs=2)


@pytest.mark.parametrize("length", [7, 8, 9])
@pytest.mark.parametrize("factor", [0.6, 0.7, 1.5, 2.5])
def test_speed_keeps_every_length(length: int, factor: float) -> None:
    """What is left over where the room is odd stands at the end."""
    found = audio.speed(torch.ones(length), factor=factor)
    played = round(length / factor)
    before = max(0, (length - played) // 2)
    after = max(0, length - played - before)
    assert found.tolist() == [0.0] * before + [1.0] * (length - before - after) + [0.0] * after


@pytest.mark.parametrize("power", [0.01, 0.5, 2.0])
@pytest.mark.parametrize("loudness", [0.1, 3.0])
def test_noise_has_its_share_of_the_sounds_own_power(power: float, loudness: float) -> None:
    sound = loudness * torch.sin(torch.arange(100_000) * 0.3)
    added = audio.noise(sound, power=power) - sound
    own = loudness**2 / 2  # the power of a sine
    assert added.square().mean().item() == pytest.approx(power * own, rel=0.03)
    assert added.mean().abs() < 0.02 * loudness * math.sqrt(power)
    lags = torch.stack([(added[lag:] * added[: len(added) - lag]).mean() for lag in (1, 2, 5)])
    assert lags.abs().max() < 0.02 * power * own, "white"
    assert (added * sound).mean().abs() < 0.02 * math.sqrt(power) * own, "not the sound itself"
    kurtosis = ((added / added.std()) ** 4).mean().item()
    assert kurtosis == pytest.approx(3, abs=0.1), "Gaussian"


def test_silence_takes_no_noise() -> None:
    assert not audio.noise(torch.zeros(50), power=1.0).any()


@pytest.mark.parametrize(("share", "silent"), [(0.0, 0), (0.25, 5), (0.5, 10), (0.98, 20), (1.0, 20)])
def test_hush_silences_one_stretch_of_that_share(share: float, silent: int) -> None:
    sound = torch.arange(1.0, 21.0)
    starts = set()
    for _ in range(300):
        found = audio.time_mask(sound, share=share)
        quiet = (found == 0).nonzero()[:, 0].tolist()
        first = quiet[0] if quiet else 0
        assert quiet == list(range(first, first + silent))
        kept = found != 0
        assert found[kept].equal(sound[kept])
        starts.add(first)
    assert starts == (set(range(20 - silent + 1)) if silent else {0}), "from any moment on"


def test_operations_follow_the_seed() -> None:
    for change in (audio.gain, lambda x: audio.time_mask(x, share=0.5)):
        random.seed(3)
        first = change(RAMP)
        random.seed(3)
        assert change(RAMP).equal(first)


def test_the_middle_is_heard_by_default_of_one_second_at_16_khz() -> None:
    prepare = AudioPreprocess()
    assert (prepare.sample_rate, prepare.seconds, prepare.modality) == (16_000, 1.0, "audio")
    assert prepare(torch.arange(48_000.0)).equal(torch.arange(16_000.0, 32_000.0))
    assert prepare.blank().equal(torch.zeros(16_000))
    assert prepare.config() == {"sample_rate": 16_000, "seconds": 1.0}


def test_windows_begin_when_they_are_asked_to() -> None:
    prepare = AudioPreprocess(100, 0.2)
    sound = Waveform(torch.arange(100.0), 100)
    for start, first in ((0.0, 0), (0.3, 30), (-0.1, 0), (-9.0, 0)):
        assert prepare.window(sound, start).equal(torch.arange(first, first + 20.0))
    late = torch.cat([torch.arange(90.0, 100.0), torch.zeros(10)])
    assert prepare.window(sound, 0.9).equal(late)
    assert prepare(sound).equal(torch.arange(40.0, 60.0))
    assert prepare(torch.arange(1.0, 6.0)).equal(torch.cat([torch.arange(1.0, 6.0), torch.zeros(15)]))


def test_a_waveform_is_taken_to_be_at_the_encoders_rate_and_a_file_is_resampled() -> None:
    prepare = AudioPreprocess(4000, 0.5)
    assert prepare.opened(torch.zeros(8000)).duration == 2.0
    tone = np.sin(2 * np.pi * 100 * np.arange(16_000) / 16_000) * 0.5
    heard = prepare(sounds.encode(tone, sample_rate=16_000))
    assert heard.shape == (2000,)
    assert heard.dtype == torch.float32
    spectrum = torch.fft.rfft(heard).abs()
    assert int(spectrum.argmax()) == 50, "100 Hz in half a second"


def test_a_short_sound_is_read_whole_and_a_long_one_is_left_on_its_medium() -> None:
    prepare = AudioPreprocess(4000, 0.5)
    data = sounds.encode(np.linspace(-0.5, 0.5, 16_000), sample_rate=8000)
    for longest in (2.0, 3.0):
        whole = prepare.whole(data, longest=longest)
        assert isinstance(whole, Waveform)
        assert (whole.sample_rate, len(whole.samples)) == (4000, 8000)
        torch.testing.assert_close(whole.samples[1000:1010], prepare.window(Audio(data), 0.25)[:10], atol=1e-4, rtol=0)
    assert isinstance(prepare.whole(data, longest=1.99), Audio)


def test_one_or_several_sounds() -> None:
    prepare = AudioPreprocess(100, 0.2)
    for several in (torch.zeros(3, 50), np.zeros((3, 50)), [torch.zeros(50)] * 3, (np.zeros(50),) * 3):
        assert len(prepare.items(several)) == 3
    for one in (torch.zeros(50), np.zeros(50), "a.wav", torch.zeros(1, 1, 50)):
        assert len(prepare.items(one)) == 1
    assert prepare.items(torch.arange(6.0).view(2, 3))[1].tolist() == [3, 4, 5]
    batch = prepare.collate([prepare(x) for x in torch.ones(2, 50)] + [prepare.blank()])
    assert batch.shape == (3, 20)


def tones(*hertz: float, rate: int = 8000) -> torch.Tensor:
    """Returns a second of several tones."""
    time = torch.arange(rate) / rate
    return torch.stack([(2 * math.pi * pitch * time).sin() for pitch in hertz]).sum(0)


def test_an_excerpt_is_a_part_of_its_sound() -> None:
    sound = torch.arange(100.0)
    starts = []
    for _ in range(400):
        found = audio.Excerpt(share=0.255)(sound)
        assert found.tolist() == list(range(int(found[0]), int(found[0]) + 26))
        starts.append(int(found[0]))
    assert (min(starts), max(starts)) == (0, 74)
    assert audio.Excerpt(share=1.0)(sound).equal(sound)
    assert [audio.Excerpt(share=share).varies() for share in (0.5, 1.0)] == [True, False]


def test_a_band_is_silenced_and_the_rest_stays() -> None:
    found = audio.frequency_mask(tones(500, 1000, 3000), low=0.2, high=0.3)  # 800 to 1200 Hz
    torch.testing.assert_close(found, tones(500, 3000), atol=1e-3, rtol=0)
    assert len(audio.frequency_mask(torch.rand(9), low=0.2, high=0.3)) == 9


def test_bands_are_drawn_by_octaves() -> None:
    """White noise loses a band of at most two octaves below half the rate, wherever it lies."""
    sound, edges = torch.zeros(4096), []
    sound[0] = 1.0  # all frequencies alike
    step = audio.FrequencyMask(p=0.5, octaves=2.0)
    for _ in range(300):
        silent = torch.fft.rfft(step(sound)).abs() < 1e-3
        if silent.any():
            places = silent.nonzero()[:, 0]
            edges.append((int(places[0]) / 2048, int(places[-1]) / 2048))
    assert 100 < len(edges) < 200, "half of them"
    wide = [math.log2(high / low) for low, high in edges if low > 0.05]
    assert 1.5 < max(wide) <= 2.0
    assert min(low for low, _ in edges) < 0.02 and max(high for _, high in edges) > 0.9
    assert audio.FrequencyMask(p=0.0)(sound).equal(sound)
    assert [audio.FrequencyMask(p=p, octaves=o).varies() for p, o in ((0.5, 1.0), (0, 1), (1, 0))] == [
        True,
        False,
        False,
    ]


def test_a_background_is_mixed_by_power() -> None:
    """Of sounds that share no frequency: 1 - w of one's power and w of another's, w from 0 to 0.4."""
    x = torch.stack([tones(100 * (n + 1)) for n in range(20)])
    found = torch.fft.rfft(audio.Mix(p=1.0, most=0.4).on_device(x)).abs().square()
    power = found[:, 100:2001:100] / (4000**2)  # of each tone in each sound
    own = power.diagonal()
    torch.testing.assert_close(power.sum(1), torch.ones(20), atol=1e-3, rtol=0)
    assert ((power > 1e-6).sum(1) <= 2).all(), "its own tone and one other"
    assert ((1 - own) <= 0.4 + 1e-4).all() and (1 - own).max() > 0.25 and (1 - own).min() < 0.15
    some = audio.Mix(p=0.3, most=1.0).on_device(x.repeat(20, 1))
    assert 0.6 < (some == x.repeat(20, 1)).all(1).float().mean() < 0.8
    assert audio.Mix().on_device(x[:1]).equal(x[:1]), "alone there is no other"
    assert [audio.Mix(p=p, most=m).active() for p, m in ((0.5, 0.4), (0.0, 0.4), (0.5, 0.0))] == [True, False, False]
