"""L3-Net's towers and front ends, and pooled features that tell when something happened."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from mmssl.encoders import create_encoder
from mmssl.encoders.mel import LogLinear
from mmssl.errors import UserError
from mmssl.types import Features

SMALL = {"name": "convnet", "widths": [8, 16], "depths": [1, 1], "stem_stride": 2, "image_size": 32}


@torch.inference_mode()
def test_l3_has_the_sizes_of_the_papers() -> None:
    picture = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    l3 = create_encoder("l3").eval()
    widths = [3, 64, 64, 128, 128, 256, 256, 512, 512]
    assert l3.dim == 512
    assert sum(p.numel() for p in l3.parameters()) == sum(9 * a * b + 2 * b for a, b in pairwise(widths))
    assert create_encoder("l3", widths=[2, 2, 2, 2]).eval()(picture).grid == (28, 28)
    features = create_encoder("l3", widths=[2, 2, 2, 2], stride=2).eval()(picture)
    assert features.grid == (14, 14)
    torch.testing.assert_close(features.pooled, features.tokens.amax(1))


@torch.inference_mode()
def test_the_front_end_of_l3_is_257_by_199() -> None:
    tower = {"name": "l3", "in_channels": 1, "widths": [4, 4, 4, 4]}
    encoder = create_encoder(
        "spectrogram", backbone=tower, sample_rate=48_000, seconds=1.0, mels=None, window=0.01, hop=0.005
    )
    assert encoder.log_power(torch.zeros(2, 48_000)).shape == (2, 257, 199)
    assert encoder.eval()(torch.randn(1, 48_000)).grid == (33, 25)


def test_the_linear_spectrogram_is_the_power_of_the_windows() -> None:
    x = torch.randn(1, 1000)
    found = LogLinear(16_000, window=0.01, hop=0.005, fft=256)(x)
    assert found.shape == (1, 129, 11)
    time, angle = torch.arange(160), torch.arange(129)[:, None] * 2 * torch.pi / 256
    part = x[0, 80 * 3 : 80 * 3 + 160] * torch.hann_window(160)
    power = (part * torch.cos(angle * time)).sum(1) ** 2 + (part * torch.sin(angle * time)).sum(1) ** 2
    torch.testing.assert_close(found[0, :, 3], torch.log(power + 1e-6), rtol=1e-3, atol=1e-3)


def test_the_front_end_of_avts_can_be_said() -> None:
    options = {"sample_rate": 48_000, "mels": 40, "fft": 1024, "window": 0.02, "hop": 0.01, "seconds": 0.5}
    encoder = create_encoder("spectrogram", **options)
    assert encoder.log_power.n_fft == 1024 and encoder.log_power(torch.zeros(1, 24_000)).shape == (1, 40, 50)
    with pytest.raises(UserError, match="fft is 512; expected at least the window's 960 samples"):
        create_encoder("spectrogram", **{**options, "fft": 512})


def flash(when: int) -> Tensor:
    film = torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8)
    film[:, :, when] = 255
    return film


def click(when: float) -> Tensor:
    sound = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0)) * 1e-3
    start = int(when * 8000)
    sound[:, start : start + 200] += 0.5
    return sound


@torch.inference_mode()
@pytest.mark.parametrize("temporal", [0, 2])
def test_pooled_tells_when_only_with_temporal(temporal: int) -> None:
    film = create_encoder("frames", image=SMALL, frames=8, temporal=temporal).eval()
    sound = create_encoder(
        "spectrogram", backbone={**SMALL, "in_channels": 1}, sample_rate=8000, seconds=1.0, mels=16, temporal=temporal
    ).eval()
    pairs = [(film(flash(1)), film(flash(6))), (sound(click(0.3)), sound(click(0.62)))]
    for early, late in pairs:
        moved = (early.pooled - late.pooled).norm() / early.pooled.norm()
        assert moved > 0.2 if temporal else moved < 0.15, moved


@torch.inference_mode()
def test_cells_stay_each_frames_own_and_any_length_is_taken() -> None:
    film = create_encoder("frames", image=SMALL, frames=4, temporal=2).eval()
    x = torch.randint(0, 256, (2, 3, 5, 32, 32), dtype=torch.uint8)
    features = film(x)
    assert features.grid == (5, 8, 8)
    torch.testing.assert_close(film(x[:, :, 3:4]).tokens, features.tokens[:, 192:256])
    assert film(x[:, :, :1]).pooled.shape == (2, 16)


class Blind(nn.Module):
    def forward(self, x: Tensor) -> Features:
        return Features(x.mean((1, 2, 3))[:, None].expand(-1, 16))


def test_temporal_needs_cells_of_sound_and_takes_pooled_frames() -> None:
    sound = create_encoder("spectrogram", backbone={**SMALL, "in_channels": 1}, temporal=1)
    sound.backbone = Blind()
    with pytest.raises(UserError, match="needs cells"):
        sound(torch.randn(1, 32_000))
    film = create_encoder("frames", image=SMALL, frames=4, temporal=1).eval()
    film.image = Blind()
    assert film(torch.rand(2, 3, 5, 32, 32)).pooled.shape == (2, 16)
