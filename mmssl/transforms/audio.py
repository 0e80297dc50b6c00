"""Sound: what an encoder is shown, and the random operations that views are made of."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mmssl.modalities import audio as sounds
from mmssl.types import Preprocess


@dataclass
class AudioPreprocess(Preprocess):
    """Takes the middle `seconds` of a sound as mono float32 (samples,) at the rate; a shorter one ends in silence."""

    modality: ClassVar[str] = "audio"

    sample_rate: int = 16_000
    seconds: float = 1.0

    def __call__(self, raw: Any) -> Tensor:
        sound = self.opened(raw)
        return self.window(sound, (sound.duration - self.seconds) / 2)

    def opened(self, raw: Any) -> sounds.Audio | sounds.Waveform:
        """Opens a path, bytes, a clip or a waveform, which is taken to be at this rate."""
        return sounds.load(raw, sample_rate=self.sample_rate)

    def window(self, sound: sounds.Audio | sounds.Waveform, start: float) -> Tensor:
        """Returns what is heard for `seconds` from a time on; times before the beginning count as it."""
        return sound.read(sample_rate=self.sample_rate, start=max(0.0, start), seconds=self.seconds)

    def items(self, inputs: Any) -> list[Any]:
        """Takes one sound or several: a list, or a 2-D array or tensor (N, samples)."""
        if isinstance(inputs, np.ndarray | Tensor) and inputs.ndim == 2:
            return list(inputs)
        return super().items(inputs)

    def blank(self) -> Tensor:
        return torch.zeros(round(self.seconds * self.sample_rate))


def gain(samples: Tensor, *, decibels: tuple[float, float] = (-6.0, 6.0)) -> Tensor:
    """Makes a sound louder or softer by a random number of decibels."""
    return samples * 10 ** (random.uniform(*decibels) / 20)
