"""Series of a motion sensor, of any length, in files of their own format: `imu`, float32 numbers, six a moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmssl.errors import DamagedError
from mmssl.methods.simclr import SimCLR
from mmssl.types import Encoder, Features, Method, Preprocess, Ragged, Sample, View

CHANNELS = 6


@dataclass
class SeriesPreprocess(Preprocess):
    """Opens bytes, or takes an array (T, 6); a sample without a series has no moment."""

    modality: ClassVar[str] = "imu"

    def __call__(self, raw: Any) -> Tensor:
        if isinstance(raw, bytes) and len(raw) % (4 * CHANNELS):
            raise DamagedError("a series that is cut")
        values = np.frombuffer(raw, dtype=np.float32) if isinstance(raw, bytes) else np.asarray(raw, dtype=np.float32)
        return torch.tensor(values.reshape(-1, CHANNELS))

    def collate(self, items: Sequence[Tensor]) -> Ragged:
        return Ragged.pad(items)

    def blank(self) -> Tensor:
        return torch.zeros(0, CHANNELS)


class Convolved(Encoder):
    """A convolution over time, and the mean over the moments that are there."""

    modality = "imu"

    def __init__(self, *, width: int = 16) -> None:
        super().__init__()
        self.dim, self.preprocess = width, SeriesPreprocess()
        self.layer = nn.Conv1d(CHANNELS, width, 3, padding=1)

    def forward(self, x: Ragged) -> Features:
        tokens = self.layer(x.values.mT).relu().mT * x.mask[..., None]  # (B, L, D)
        return Features(tokens.sum(1) / x.lengths.clamp(min=1)[:, None], tokens, lengths=x.lengths)


class Windows(View):
    """Shows two stretches of a series, each of half to all of it."""

    def __init__(self, preprocess: Any) -> None:
        super().__init__(preprocess)
        self.shows = {"imu": 2}

    def __call__(self, sample: Sample) -> Sample:
        series = self.preprocess["imu"](sample["imu"])
        return {"imu": [self.stretch(series) for _ in range(2)]}

    def stretch(self, series: Tensor) -> Tensor:
        length = int(torch.randint(len(series) // 2, len(series) + 1, ()))
        start = int(torch.randint(len(series) - length + 1, ()))
        return series[start : start + length]


encoder = Convolved
method = Method(Windows, SimCLR)
