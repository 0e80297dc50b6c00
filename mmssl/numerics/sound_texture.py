"""Statistics of sound textures: how loud the bands of a cochlea are, how they vary, and how they go together.

McDermott & Simoncelli, Neuron 2011; as Owens et al., ECCV 2016, choose and scale them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DISTANCES = (1, 2, 3, 5)  # between bands whose correlations are taken


def erb(hertz: float) -> float:
    """Returns a frequency's place on the scale of equivalent rectangular bandwidths. Glasberg & Moore, 1990."""
    return 9.265 * math.log(1 + hertz / (24.7 * 9.265))


def cochlear_filters(samples: int, rate: int, bands: int, low: float, high: float) -> Tensor:
    """Returns the gains (bands, samples // 2 + 1) of band-pass filters: half-cosines that overlap by half on the ERB
    scale, whose squares sum to 1 between the first and the last centre.
    """
    hertz = torch.linspace(0, rate / 2, samples // 2 + 1, dtype=torch.double)
    scale = 9.265 * (1 + hertz / (24.7 * 9.265)).log()
    edges = torch.linspace(erb(low), erb(high), bands + 2, dtype=torch.double)
    return _cosines(scale, edges[1:-1], float(edges[1] - edges[0])).float()


def modulation_filters(frames: int, rate: float, count: int, low: float, high: float) -> Tensor:
    """Returns the gains (count, frames // 2 + 1) of band-pass filters of envelopes: half-cosines over the logarithm of
    frequency, whose centres run evenly from `low` to `high` Hz and which reach to their neighbours' centres.
    """
    octaves = torch.linspace(0, rate / 2, frames // 2 + 1, dtype=torch.double).clamp(min=1e-9).log2()
    centres = torch.linspace(math.log2(low), math.log2(high), count, dtype=torch.double)
    return _cosines(octaves, centres, float(centres[1] - centres[0])).float()


def _cosines(places: Tensor, centres: Tensor, width: float) -> Tensor:
    away = (places - centres[:, None]) / width
    return torch.where(away.abs() < 1, (away * math.pi / 2).cos(), 0.0)


def envelopes(x: Tensor, filters: Tensor, frames: int, power: float) -> Tensor:
    """Returns the compressed envelopes (B, bands, frames) of sounds (B, samples) in the bands of filters.

    They are the lengths of the analytic signals, raised to a power, and resampled by their spectrum.
    """
    samples = x.shape[1]
    spectrum = torch.fft.rfft(x)[:, None] * filters  # (B, bands, F)
    analytic = torch.fft.ifft(torch.nn.functional.pad(2 * spectrum, (0, samples - spectrum.shape[2])), dim=2)
    compressed = torch.fft.rfft(analytic.abs() ** power)[..., : frames // 2 + 1]
    return torch.fft.irfft(compressed, n=frames) * (frames / samples)


def statistics(envelope: Tensor, filters: Tensor) -> Tensor:
    """Returns the statistics (B, S) of envelopes (B, bands, T), by kinds, each over the square root of its number.

    The envelopes are scaled so that the median length of a moment's vector of bands is 1. The kinds: the mean of each
    band; its deviation over its mean; the share of its variance that each of the modulation filters (M, T // 2 + 1)
    lets through; the correlations of bands 1, 2, 3 and 5 apart; the median length.
    """
    loudness = envelope.norm(dim=1).median(dim=1).values.clamp(min=1e-6)[:, None]  # (B, 1)
    envelope = envelope / loudness[:, :, None]
    mean = envelope.mean(dim=2)
    centred = envelope - mean[:, :, None]
    deviation = centred.square().mean(dim=2).sqrt()
    unit = centred / deviation.clamp(min=1e-6)[:, :, None]
    power = torch.fft.rfft(unit).abs().square()  # (B, bands, F)
    weights = 2 * filters.square() / envelope.shape[2] ** 2  # of frequencies, each of which stands for two
    modulation = (power @ weights.T).flatten(1)
    pairs = [(unit[:, gap:] * unit[:, : unit.shape[1] - gap]).mean(dim=2) for gap in DISTANCES]
    kinds = [mean, deviation / mean.clamp(min=1e-6), modulation, torch.cat(pairs, dim=1), loudness]
    return torch.cat([kind / math.sqrt(kind.shape[1]) for kind in kinds], dim=1)
