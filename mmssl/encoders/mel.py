"""Spectrograms made on the device, always in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.errors import UserError

CACHED = 2**18  # samples whose spectra, some ten times as large, stay in a processor's cache


def sizes(sample_rate: int, window: float, hop: float, fft: int | None) -> tuple[int, int, int]:
    """Returns samples per window, per hop and of the transform, by default the power of two that holds the window."""
    length, step = round(window * sample_rate), round(hop * sample_rate)
    size = fft or 2 ** (length - 1).bit_length()
    if size < length:
        raise UserError(f"fft is {size}; expected at least the window's {length} samples")
    return length, step, size


class LogMel(nn.Module):
    """Waveform (B, samples) to the logarithm of mel power (B, mels, samples // hop), in float32."""

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        sample_rate: int,
        mels: int,
        *,
        window: float,
        hop: float,
        low: float,
        high: float | None,
        fft: int | None = None,
    ) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.length, self.hop, self.n_fft = sizes(sample_rate, window, hop, fft)
        filters = melscale_fbanks(self.n_fft // 2 + 1, low, high or sample_rate / 2, mels, sample_rate, norm="slaney")
        self.register_buffer("window", torch.hann_window(self.length), persistent=False)
        # (2 bins, mels): what sums power over a band sums squares of real and imaginary parts as well
        self.register_buffer("filters", filters.repeat_interleave(2, dim=0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            size = max(1, CACHED // x.shape[1]) if x.device.type == "cpu" else max(1, len(x))
            return torch.cat([self._log_power(part) for part in x.float().split(size)])

    def _log_power(self, x: Tensor) -> Tensor:
        waves = torch.stft(x, self.n_fft, self.hop, self.length, self.window, return_complex=True)
        parts = torch.view_as_real(waves.transpose(1, 2)[:, :-1]).flatten(2)  # (B, samples // hop, 2 bins)
        return torch.log(parts.square() @ self.filters + 1e-6).transpose(1, 2)


class LogLinear(nn.Module):
    """Waveform (B, samples) to the logarithm of power at linear frequencies (B, fft / 2 + 1, T), in float32.

    T windows lie wholly within the sound. The front end of L3-Net: Arandjelovic & Zisserman, ICCV 2017.
    """

    window: Tensor

    def __init__(self, sample_rate: int, *, window: float, hop: float, fft: int | None = None) -> None:
        super().__init__()
        self.length, self.hop, self.n_fft = sizes(sample_rate, window, hop, fft)
        self.register_buffer("window", torch.hann_window(self.length), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            frames = x.float().unfold(-1, self.length, self.hop) * self.window  # (B, T, length)
            power = torch.fft.rfft(frames, self.n_fft).abs().square()
            return torch.log(power + 1e-6).transpose(1, 2)


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


class DecibelMel(nn.Module):
    """Waveforms (B, samples) to mel power in decibels (B, 1, samples // hop + 1, mels), in float32.

    The front end of CLAP: Wu et al., ICASSP 2023.

    slaney: mel bands of Slaney's scale and of equal area; otherwise of HTK's scale and of height 1.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self, sample_rate: int, mels: int, *, fft: int, hop: int, low: float, high: float, slaney: bool
    ) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.fft, self.hop = fft, hop
        kind = {"norm": "slaney", "mel_scale": "slaney"} if slaney else {"norm": None, "mel_scale": "htk"}
        filters = melscale_fbanks(fft // 2 + 1, low, high, mels, sample_rate, **kind)
        self.register_buffer("window", torch.hann_window(fft), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            waves = torch.stft(x.float(), self.fft, self.hop, window=self.window, return_complex=True)
            power = waves.abs().square().transpose(1, 2) @ self.filters
            return 10 * power.clamp(min=1e-10).log10()[:, None]
