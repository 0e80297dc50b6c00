"""Measures log-mel spectrograms of a batch beside torchaudio's, one sound after another.

python tools/bench/log_mel.py, on one core: 64 sounds of 10 seconds at 16 kHz, 64 bands.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torchaudio
from timing import Row, compare, show

from mmssl.encoders.mel import LogMel

SOUNDS, SECONDS, RATE, BANDS = 64, 10, 16_000, 64


def rows() -> Iterator[Row]:
    """Yields one row; its bound also says how far both results are apart."""
    torch.set_num_threads(1)
    x = torch.randn(SOUNDS, SECONDS * RATE, generator=torch.Generator().manual_seed(0))
    ours = LogMel(RATE, BANDS, window=0.025, hop=0.01, low=20.0, high=None)
    theirs = torchaudio.transforms.MelSpectrogram(
        RATE, n_fft=512, win_length=400, hop_length=160, f_min=20.0, n_mels=BANDS, norm="slaney"
    )

    def peer() -> torch.Tensor:
        return torch.stack([torch.log(theirs(sound) + 1e-6) for sound in x])

    frames = torch.randn(SECONDS * RATE // 160, 512)
    row = compare(
        f"log-mel {SOUNDS} x {SECONDS} s",
        lambda: ours(x),
        peer,
        against="torchaudio per sample",
        bound=lambda: [torch.fft.rfft(frames) for _ in x],
        bound_by="the Fourier transforms alone",
    )
    apart = float((ours(x) - peer()[..., :-1]).abs().max())
    yield {**row, "bound": f"{row['bound']}; largest difference {apart:.1e}"}


if __name__ == "__main__":
    show(rows())
