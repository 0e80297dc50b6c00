"""What encoders give, in numbers: pooling, spectrograms and baselines against plain formulas and other libraries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from mmssl.encoders import create_encoder, mel
from mmssl.encoders.mel import LogMel
from mmssl.errors import UserError
from mmssl.types import Ragged

CONVNET = {"name": "convnet", "image_size": 16, "widths": [8], "depths": [1], "stem_stride": 1}
RATE = 16_000


def sounds(rows: int, samples: int = RATE) -> Tensor:
    return 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(0))


def log_mel(x: Tensor, mels: int, *, low: float) -> Tensor:
    """torchaudio's own, with the last frame left out, whose middle lies past the end."""
    made = MelSpectrogram(RATE, n_fft=512, win_length=400, hop_length=160, f_min=low, n_mels=mels, norm="slaney")
    return (made(x)[..., :-1] + 1e-6).log()


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_convnet_pools_its_map_as_asked(pool: str) -> None:
    encoder = create_encoder(pool=pool, **CONVNET).eval()
    features = encoder(torch.rand(2, 3, 16, 16))
    tokens = features.tokens
    torch.testing.assert_close(features.pooled, tokens.mean(1) if pool == "mean" else tokens.amax(1))
    assert not torch.allclose(tokens.mean(1), tokens.amax(1), atol=1e-3)


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_vit_pools_its_class_token_or_its_patches(pool: str) -> None:
    encoder = create_encoder("vit", image_size=16, patch_size=8, width=16, depth=2, heads=2, pool=pool).eval()
    normed: list[Tensor] = []
    encoder.norm.register_forward_hook(lambda _, __, out: normed.append(out))
    features = encoder(torch.rand(2, 3, 16, 16))
    (whole,) = normed
    patches = whole[:, 1:] if pool == "class" else whole
    torch.testing.assert_close(features.tokens, patches)
    torch.testing.assert_close(features.pooled, whole[:, 0] if pool == "class" else patches.mean(1))


def test_codes_are_told_for_each_cell_and_pooled_by_how_often_each_is_expected() -> None:
    encoder = create_encoder("codes", image_size=16, codes=6, width=4, groups=2, depth=1).eval()
    features = encoder(torch.rand(2, 3, 16, 16))
    assert features.tokens.shape == (2, 64, 6) and features.grid == (8, 8)
    shares = features.tokens.exp() / features.tokens.exp().sum(dim=2, keepdim=True)
    torch.testing.assert_close(features.pooled, shares.mean(dim=1))
    torch.testing.assert_close(features.pooled.sum(dim=1), torch.ones(2))


def test_pointnet_turns_each_cloud_by_its_matrix_none_at_first() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("pointnet", widths=[8, 12], align=True).eval()
    xyz, cloud = torch.randn(9, 3), torch.tensor([0] * 4 + [1] * 5)
    x = Ragged(xyz, torch.tensor([4, 5]))
    torch.testing.assert_close(encoder.align(xyz, cloud, 2), torch.eye(3).expand(2, 3, 3))
    torch.testing.assert_close(encoder(x).tokens, encoder.layers(xyz))
    with torch.no_grad():
        encoder.align.matrix[-1].weight.normal_()
    turns = encoder.align(xyz, cloud, 2)
    assert not torch.allclose(turns[0], turns[1])
    torch.testing.assert_close(encoder(x).tokens, encoder.layers(torch.cat([xyz[:4] @ turns[0], xyz[4:] @ turns[1]])))


def test_pointnet_without_coordinates_reads_the_features_alone() -> None:
    encoder = create_encoder("pointnet", widths=[8, 12], features=["shape"], coordinates=False).eval()
    xyz, shape = torch.randn(9, 3), torch.rand(9, 9)
    found = encoder(Ragged(torch.cat([xyz, shape], dim=1), torch.tensor([4, 5]))).tokens
    torch.testing.assert_close(found, encoder.layers(shape))
    assert encoder.layers[0].in_features == 9
    for wrong in ({}, {"features": ["shape"], "align": True}):
        with pytest.raises(UserError, match="without coordinates there must be features"):
            create_encoder("pointnet", coordinates=False, **wrong)


@pytest.mark.parametrize("held", [2**18, 1, 30_000])
def test_log_mel_is_torchaudios(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mel, "CACHED", held)
    x = sounds(3)
    made = LogMel(RATE, 40, window=0.025, hop=0.01, low=60.0, high=None)
    torch.testing.assert_close(made(x), log_mel(x, 40, low=60.0), atol=1e-4, rtol=1e-4)
    x.requires_grad_()
    (ours,) = torch.autograd.grad(made(x).square().sum(), x)
    (theirs,) = torch.autograd.grad(log_mel(x, 40, low=60.0).square().sum(), x)
    torch.testing.assert_close(ours, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("normalize", ["example", "fixed"])
def test_spectrogram_is_normalised_as_asked(normalize: str) -> None:
    options = {"mels": 40, "seconds": 1.0, "normalize": normalize, "mean": -7.0, "std": 3.0}
    encoder = create_encoder("spectrogram", backbone={**CONVNET, "in_channels": 1}, low=60.0, **options).eval()
    shown: list[Tensor] = []
    encoder.backbone.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    x = sounds(2) * torch.tensor([[1.0], [0.01]])
    encoder(x)
    power = log_mel(x, 40, low=60.0)
    one, other = power.mean((1, 2), keepdim=True), power.std((1, 2), keepdim=True) + 1e-3
    wanted = (power - one) / other if normalize == "example" else (power + 7) / 3
    torch.testing.assert_close(shown[0], wanted[:, None], atol=1e-3, rtol=1e-3)


def test_spectrogram_with_temporal_sees_moments_of_bands() -> None:
    encoder = create_encoder("spectrogram", backbone={**CONVNET, "in_channels": 1}, mels=32, seconds=0.5, temporal=1)
    given: list[Tensor] = []
    encoder.eval().temporal.register_forward_pre_hook(lambda _, cells: given.append(cells[0]))
    features = encoder(sounds(2, 8000))
    bands, moments = features.grid
    assert bands != moments and given[0].shape == (2, moments, bands, 8)
    torch.testing.assert_close(given[0][:, 3, 2], features.tokens[:, 2 * moments + 3])


def test_raw_sound_and_film_are_mean_and_change() -> None:
    x = sounds(3)
    mel = log_mel(x, 64, low=0.0)
    found = create_encoder("raw:audio")(x).pooled
    torch.testing.assert_close(found, torch.cat([mel.mean(2), mel.std(2)], dim=1), atol=1e-3, rtol=1e-3)
    film = torch.rand(2, 3, 4, 16, 16)
    change = sum((film[:, :, t + 1] - film[:, :, t]).abs() for t in range(3)) / 3
    wanted = torch.cat([film.mean(2).flatten(1), change.flatten(1)], dim=1)
    torch.testing.assert_close(create_encoder("raw:video")(film).pooled, wanted)


def test_l3_takes_the_maximum_over_space() -> None:
    encoder = create_encoder("l3", image_size=32, widths=[4, 8]).eval()
    features = encoder(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(features.pooled, features.tokens.amax(1))
    layers = [layer for layer in encoder.layers if isinstance(layer, nn.Conv2d)]
    assert [layer.stride for layer in layers] == [(1, 1)] * 4
    strided = create_encoder("l3", image_size=32, widths=[4, 8], stride=2)
    assert [layer.stride for layer in strided.layers if isinstance(layer, nn.Conv2d)] == [(2, 2)] + [(1, 1)] * 3
