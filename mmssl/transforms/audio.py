"""Sound: what an encoder is shown, and the random operations that views are made of."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.modalities import audio as sounds
from mmssl.modalities.sped import stretched
from mmssl.schema import Positive, above, at_least, at_most, below
from mmssl.transforms.base import Chance, OnDevice, OnWaveform, chance, check_range, one
from mmssl.types import Preprocess, Span

OCTAVES = 7  # that a silenced band may lie in
AT_ONCE = 600.0  # s of sound that several windows are cut from, decoded once


@dataclass
class AudioPreprocess(Preprocess):
    """Takes the middle `seconds` of a sound as mono float32 (samples,) at the rate; a shorter one ends in silence."""

    modality: ClassVar[str] = "audio"

    sample_rate: Positive = 16_000
    seconds: Annotated[float, above(0), below(math.inf)] = 1.0

    def __call__(self, raw: Any) -> Tensor:
        sound = self.opened(raw)
        return self.window(sound, (sound.duration - self.seconds) / 2)

    def opened(self, raw: Any) -> sounds.Audio | sounds.Waveform:
        """Opens a path, bytes, a clip or a waveform, which is taken to be at this rate."""
        return sounds.load(raw, sample_rate=self.sample_rate)

    def whole(self, raw: Any, *, longest: float) -> sounds.Audio | sounds.Waveform:
        """Opens a sound and, unless it lasts longer than this many seconds, reads it at once for several windows."""
        sound = self.opened(raw)
        if sound.duration > longest:
            return sound
        return sounds.Waveform(sound.read(sample_rate=self.sample_rate), self.sample_rate)

    def window(self, sound: sounds.Audio | sounds.Waveform, start: float) -> Tensor:
        """Returns what is heard for `seconds` from a time on; times before the beginning count as it."""
        return sound.read(sample_rate=self.sample_rate, start=max(0.0, start), seconds=self.seconds)

    @property
    def span(self) -> float:
        return self.seconds

    def duration(self, raw: Any) -> float:
        return self.opened(raw).duration

    def windows(self, raw: Any, spans: Sequence[Span]) -> list[Tensor]:
        sound, first = self.opened(raw), 0.0
        starts = [max(0.0, (start + end - self.seconds) / 2) for start, end in spans]
        if (length := starts[-1] + self.seconds - starts[0]) <= AT_ONCE:
            first = starts[0]
            heard = sound.read(sample_rate=self.sample_rate, start=first, seconds=length)
            sound = sounds.Waveform(heard, self.sample_rate)
        return [self.window(sound, start - first) for start in starts]

    def items(self, inputs: Any) -> list[Any]:
        """Takes one sound or several: a list, or a 2-D array or tensor (N, samples)."""
        if isinstance(inputs, np.ndarray | Tensor) and inputs.ndim == 2:
            return list(inputs)
        return super().items(inputs)

    def blank(self) -> Tensor:
        return torch.zeros(round(self.seconds * self.sample_rate))


@dataclass
class RepeatedAudio(AudioPreprocess):
    """Takes a shorter sound as often as it fits in whole, as CLAP does; the rest is silence. Wu et al., ICASSP 2023."""

    def window(self, sound: sounds.Audio | sounds.Waveform, start: float) -> Tensor:
        samples = super().window(sound, start)
        length = max(1, round(sound.duration * self.sample_rate))
        if start > 0 or length >= len(samples):
            return samples
        repeated = samples[:length].repeat(len(samples) // length)
        return F.pad(repeated, (0, len(samples) - len(repeated)))


def gain(samples: Tensor, *, decibels: tuple[float, float] = (-6.0, 6.0)) -> Tensor:
    """Makes a sound louder or softer by a random number of decibels."""
    return samples * 10 ** (random.uniform(*decibels) / 20)


def speed(samples: Tensor, *, factor: float) -> Tensor:
    """Plays a sound (samples,) this many times as fast, its pitch with it; its middle, or silence around it, stays."""
    length = samples.shape[-1]
    played = stretched(samples, max(1, round(length / factor)))
    room = length - len(played)
    return F.pad(played, (room // 2, room - room // 2))


def noise(samples: Tensor, *, power: float) -> Tensor:
    """Adds white noise of this many times the sound's own power."""
    return samples + torch.randn_like(samples) * (samples.square().mean() * power).sqrt()


def time_mask(samples: Tensor, *, share: float) -> Tensor:
    """Silences that share of a sound, from a random moment on."""
    length = round(share * samples.shape[-1])
    start = random.randint(0, samples.shape[-1] - length)
    return torch.cat([samples[:start], torch.zeros(length), samples[start + length :]])


def frequency_mask(samples: Tensor, *, low: float, high: float) -> Tensor:
    """Silences frequencies from `low` to `high`, as shares of half the sampling rate."""
    waves = torch.fft.rfft(samples)
    place = torch.linspace(0, 1, len(waves))
    return torch.fft.irfft(waves.masked_fill((place >= low) & (place <= high), 0), n=len(samples))


@dataclass(kw_only=True)
class Excerpt(OnWaveform):
    """Takes a part of what the encoder hears, from a random moment on, so that views are shorter and of other moments.

    The encoder must take sounds of any length, as one of convolutions does.

    share: of its length.
    """

    share: Annotated[float, above(0), at_most(1)] = 0.4

    def __call__(self, samples: Tensor) -> Tensor:
        length = self.length(len(samples))
        start = random.randint(0, len(samples) - length)
        return samples[start : start + length]

    def length(self, samples: int) -> int:
        """Returns how many samples of a sound are taken."""
        return max(1, round(self.share * samples))

    def varies(self) -> bool:
        return self.share < 1


@dataclass(kw_only=True)
class Speed(OnWaveform):
    """Plays the sound faster or slower, its pitch with it.

    factor: range of the speed, 1 leaves it as it is.
    """

    factor: tuple[float, float] = (0.8, 1.25)

    def __post_init__(self) -> None:
        check_range("speed.factor", self.factor, 0.1, 10.0)

    def __call__(self, samples: Tensor) -> Tensor:
        return speed(samples, factor=random.uniform(*self.factor))

    def varies(self) -> bool:
        return self.factor[0] < self.factor[1]


@dataclass(kw_only=True)
class Gain(OnWaveform):
    """Makes the sound louder or softer.

    decibels: the most, either way.
    """

    decibels: Annotated[float, at_least(0)] = 6.0

    def __call__(self, samples: Tensor) -> Tensor:
        return gain(samples, decibels=(-self.decibels, self.decibels)) if self.decibels else samples

    def varies(self) -> bool:
        return self.decibels > 0


@dataclass(kw_only=True)
class Noise(OnWaveform):
    """Adds white noise.

    power: the most, as a share of the sound's own power.
    """

    power: Annotated[float, at_least(0)] = 0.1

    def __call__(self, samples: Tensor) -> Tensor:
        return noise(samples, power=random.uniform(0, self.power)) if self.power else samples

    def varies(self) -> bool:
        return self.power > 0


@dataclass(kw_only=True)
class TimeMask(OnWaveform):
    """Silences a part of the sound. Park et al., Interspeech 2019 (SpecAugment).

    share: the most, of its length.
    """

    share: Annotated[float, at_least(0), at_most(1)] = 0.2

    def __call__(self, samples: Tensor) -> Tensor:
        return time_mask(samples, share=random.uniform(0, self.share)) if self.share else samples

    def varies(self) -> bool:
        return self.share > 0


@dataclass(kw_only=True)
class FrequencyMask(OnWaveform):
    """Silences a band of frequencies. Park et al., Interspeech 2019 (SpecAugment), there of bands of a spectrogram.

    p: the probability.
    octaves: the widest band, anywhere in the seven octaves below half the sampling rate.
    """

    p: Chance = 0.5
    octaves: Annotated[float, at_least(0), at_most(OCTAVES)] = 1.5

    def __call__(self, samples: Tensor) -> Tensor:
        if not chance(one(self.p)):
            return samples
        width = random.uniform(0, self.octaves)
        top = random.uniform(width - OCTAVES, 0)  # octaves from half the sampling rate
        return frequency_mask(samples, low=2 ** (top - width), high=2**top)

    def varies(self) -> bool:
        return one(self.p) > 0 and self.octaves > 0


@dataclass(kw_only=True)
class Mix(OnDevice):
    """Adds another sound of the batch as background. Niizumi et al., IJCNN 2021 (BYOL for Audio).

    What is heard has a share 1 - w of the sound's power and w of the other's, so that their powers mix as the paper's
    do.

    p: the probability.
    most: the largest w, which is drawn evenly from 0 on.
    """

    modalities = ("audio",)
    p: Chance = 1.0
    most: Annotated[float, at_least(0), at_most(1)] = 0.4

    def on_device(self, x: Tensor) -> Tensor:
        if len(x) < 2:
            return x
        other = x.roll(int(torch.randint(1, len(x), ())), dims=0)
        share = torch.rand(len(x), 1, device=x.device) * self.most
        mixed = (1 - share).sqrt() * x + share.sqrt() * other
        return torch.where(torch.rand(len(x), 1, device=x.device) < one(self.p), mixed, x)

    def active(self) -> bool:
        return one(self.p) > 0 and self.most > 0
