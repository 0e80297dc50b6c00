"""Clips and sounds at another speed, what is seen and what is heard by the same factor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Sped:
    """A clip or a sound, played this many times as fast; answers as it does, its times those of the played one.

    source: a Video, Frames, Audio or Waveform.
    """

    source: Any
    factor: float

    @property
    def duration(self) -> float:
        """Seconds that it lasts as it is played."""
        return float(self.source.duration / self.factor)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a clip's images."""
        size: tuple[int, int] = self.source.size
        return size

    def frames(self, times: Sequence[float], **options: Any) -> np.ndarray:
        """Returns the image shown at each time (s), uint8 (T, H, W, 3)."""
        pictures: np.ndarray = self.source.frames([time * self.factor for time in times], **options)
        return pictures

    def read(self, *, sample_rate: int, start: float = 0.0, seconds: float | None = None) -> Tensor:
        """Returns float32 (samples,) from `start`, its pitch raised or lowered by the factor."""
        length = None if seconds is None else seconds * self.factor
        heard: Tensor = self.source.read(sample_rate=sample_rate, start=start * self.factor, seconds=length)
        return stretched(heard, round(len(heard) / self.factor if seconds is None else seconds * sample_rate))


def stretched(samples: Tensor, length: int) -> Tensor:
    """Returns a sound (samples,) played in so many samples, its pitch with it."""
    if len(samples) == length:
        return samples
    return F.interpolate(samples[None, None], size=length, mode="linear")[0, 0]
