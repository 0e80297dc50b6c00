"""Statistics of sound textures on sounds of which they are known."""

from __future__ import annotations

import math

import pytest
import torch

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.numerics.sound_texture import cochlear_filters, envelopes, erb, modulation_filters, statistics

RATE, SECONDS, FRAMES = 8000, 1.0, 400
TIME = torch.arange(RATE) / RATE


def test_bands_cover_what_lies_between_their_centres_evenly() -> None:
    filters = cochlear_filters(RATE, RATE, 8, 50.0, 3600.0)  # bins of 1 Hz
    peaks = filters.argmax(dim=1)
    scale = torch.tensor([erb(float(hertz)) for hertz in peaks])
    torch.testing.assert_close(scale.diff(), torch.full((7,), (erb(3600) - erb(50)) / 9), atol=0.05, rtol=0)
    between = filters[:, peaks[0] : peaks[-1]].square().sum(dim=0)
    torch.testing.assert_close(between, torch.ones_like(between))
    assert not filters[:, :50].any() and not filters[:, 3601:].any()
    assert erb(1000) == pytest.approx(15.6, abs=0.1)  # Glasberg & Moore, 1990: 21.4 log10(1 + 0.00437 f)


def test_modulation_filters_lie_evenly_over_octaves() -> None:
    filters = modulation_filters(4000, 400.0, 10, 0.5, 200.0)  # bins of 0.1 Hz
    hertz = filters.argmax(dim=1) / 10
    expected = torch.tensor([0.5 * 400 ** (i / 9) for i in range(10)])
    torch.testing.assert_close(hertz, expected, atol=0.06, rtol=0)
    away = math.log2(20.0 / float(expected[5])) / math.log2(float(expected[6] / expected[5]))
    assert float(filters[5, 200]) == pytest.approx(math.cos(away * math.pi / 2), abs=1e-4)


def test_envelopes_follow_the_level_of_the_band() -> None:
    filters = cochlear_filters(RATE, RATE, 8, 50.0, 3600.0)
    tone = int(filters[4].argmax())
    level = 1 + 0.5 * (2 * math.pi * 5 * TIME).cos()
    found = envelopes((0.2 * level * (2 * math.pi * tone * TIME).sin())[None], filters, FRAMES, 0.3)[0]
    wanted = (0.2 * (1 + 0.5 * (2 * math.pi * 5 * torch.arange(FRAMES) / FRAMES).cos())) ** 0.3
    torch.testing.assert_close(found[4], wanted, atol=2e-3, rtol=0)
    assert float(found[[0, 1, 7]].max()) < 0.1


def by_hand(envelope: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """The statistics (S,) of one sound's envelopes (bands, T), filtered over time one by one."""
    loudness = envelope.square().sum(dim=0).sqrt().median()
    x = envelope / loudness
    bands, moments = x.shape
    mean, deviation = x.mean(dim=1), x.var(dim=1, unbiased=False).sqrt()
    passed = torch.fft.irfft(torch.fft.rfft(x - mean[:, None])[:, None] * filters, n=moments)  # (bands, M, T)
    modulation = passed.square().mean(dim=2) / deviation.square()[:, None]
    correlation = torch.corrcoef(x)
    pairs = [correlation[i, i + gap] for gap in (1, 2, 3, 5) for i in range(bands - gap)]
    kinds = [mean, deviation / mean, modulation.flatten(), torch.stack(pairs), loudness[None]]
    return torch.cat([kind / len(kind) ** 0.5 for kind in kinds])


def test_statistics_are_those_of_the_formulas() -> None:
    torch.manual_seed(0)
    envelope = torch.rand(3, 7, 101) + 0.2  # an odd number: no frequency stands alone at the end
    filters = modulation_filters(101, 50.0, 4, 0.5, 20.0)
    found = statistics(envelope, filters)
    for row in range(3):
        torch.testing.assert_close(found[row], by_hand(envelope[row], filters), rtol=1e-4, atol=1e-5)
    louder = statistics(3 * envelope, filters)
    torch.testing.assert_close(louder[:, :-1], found[:, :-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(louder[:, -1], 3 * found[:, -1])


def test_the_encoder_makes_502_numbers_and_hears_what_it_is_told_to() -> None:
    assert create_encoder("sound_texture", seconds=0.5).dim == 502
    options = {"sample_rate": RATE, "seconds": SECONDS, "bands": 8, "modulations": 4, "low": 80.0, "high": 3000.0}
    encoder = create_encoder("sound_texture", **options, power=0.5, envelope_rate=101.0)
    torch.manual_seed(0)
    x = torch.randn(3, RATE) * 0.1
    envelope = envelopes(x, cochlear_filters(RATE, RATE, 8, 80.0, 3000.0), 101, 0.5)
    expected = statistics(envelope, modulation_filters(101, 101.0, 4, 0.5, 50.5))
    torch.testing.assert_close(encoder(x).pooled, expected)
    torch.testing.assert_close(encoder(x[1:2]).pooled, expected[1:2], rtol=1e-4, atol=1e-5)
    assert encoder(torch.zeros(2, RATE)).pooled.isfinite().all(), "silence"
    for wrong in ({"low": 0.0}, {"high": 5000.0}, {"bands": 5}, {"modulations": 1}, {"envelope_rate": 1.0}):
        with pytest.raises(UserError, match="expected 0 < low < high <= 4000"):
            create_encoder("sound_texture", **options | wrong)
