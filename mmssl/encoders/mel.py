"""Mel spectrograms made on the device, always in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LogMel(nn.Module):
    """Waveform (B, samples) to the logarithm of mel power (B, mels, samples // hop), in float32."""

    window: Tensor
    filters: Tensor

    def __init__(
        self, sample_rate: int, mels: int, *, window: float, hop: float, low: float, high: float | None
    ) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.length, self.hop = round(window * sample_rate), round(hop * sample_rate)
        self.n_fft = 2 ** (self.length - 1).bit_length()
        filters = melscale_fbanks(self.n_fft // 2 + 1, low, high or sample_rate / 2, mels, sample_rate, norm="slaney")
        self.register_buffer("window", torch.hann_window(self.length), persistent=False)
        self.register_buffer("filters", filters, persistent=False)  # (bins, mels)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            waves = torch.stft(x.float(), self.n_fft, self.hop, self.length, self.window, return_complex=True)
            power = waves[..., :-1].abs().square()  # (B, bins, samples // hop)
            return torch.log(self.filters.T @ power + 1e-6)


class KaldiMel(nn.Module):
    """Waveforms (B, samples) to normalised log-mel frames (B, length, mels) of 25 ms every 10 ms, as Kaldi makes them.

    Shorter sounds are padded with zero frames. The front end of AST: Gong et al., Interspeech 2021.
    """

    def __init__(self, sample_rate: int, mels: int, length: int, *, mean: float, std: float) -> None:
        super().__init__()
        self.sample_rate, self.mels, self.length = sample_rate, mels, length
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = torch.stack([self._frames(wave) for wave in x.float()])
            x = F.pad(x, (0, 0, 0, self.length - x.shape[1]))  # a negative pad crops
            return (x - self.mean) / (2 * self.std)

    def _frames(self, wave: Tensor) -> Tensor:
        from torchaudio.compliance.kaldi import fbank

        return fbank(wave[None], sample_frequency=self.sample_rate, window_type="hanning", num_mel_bins=self.mels)
