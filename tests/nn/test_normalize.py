"""Pixel normalisation, by its formula and by torchvision."""

from __future__ import annotations

import pytest
import torch

from mmssl.nn.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize, pixel_normalize

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


def test_equal_to_torchvision_in_bytes_and_floats_of_any_shape() -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    picture = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    expected = transforms.normalize(transforms.to_dtype(picture, torch.float32, scale=True), list(MEAN), list(STD))
    normalize = Normalize(MEAN, STD)
    for x in (picture, picture / 255, picture.double() / 255):
        torch.testing.assert_close(normalize(x), expected)
    film = torch.stack([picture, picture], dim=2)  # (B, 3, T, H, W)
    torch.testing.assert_close(normalize(film), torch.stack([expected, expected], dim=2))
    white = torch.ones(1, 3, 1, 1)  # one as a float is white, as a byte nearly black
    torch.testing.assert_close(normalize(white)[0, :, 0, 0], (1 - torch.tensor(MEAN)) / torch.tensor(STD))
    torch.testing.assert_close(normalize(white.byte())[0, :, 0, 0], (1 / 255 - torch.tensor(MEAN)) / torch.tensor(STD))


def test_a_network_in_half_precision_normalises_in_full_and_saves_no_statistics() -> None:
    x = torch.rand(2, 3, 4, 4)
    normalize = Normalize(MEAN, STD)
    assert not normalize.state_dict()
    mean, std = (0.75, 0.375, 0.625), (0.5, 0.25, 1.0)  # which half precision holds, but not 1 / 255 of them
    given = (255 * x).byte()
    half = Normalize(mean, std).bfloat16()(given)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, Normalize(mean, std)(given), rtol=0, atol=0)
    assert normalize(x.bfloat16()).dtype == torch.float32


def test_colour_has_imagenets_statistics_unless_told_and_other_channels_stay() -> None:
    models = pytest.importorskip("torchvision.models")
    theirs = models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    assert tuple(theirs.mean) == IMAGENET_MEAN and tuple(theirs.std) == IMAGENET_STD

    def kept(channels: int, mean: tuple | None = None, std: tuple | None = None) -> tuple[list[float], list[float]]:
        made = pixel_normalize(channels, mean, std)
        return made.mean.tolist(), made.std.tolist()

    assert kept(3) == (pytest.approx(IMAGENET_MEAN), pytest.approx(IMAGENET_STD))
    assert kept(3, mean=MEAN) == (pytest.approx(MEAN), pytest.approx(IMAGENET_STD))
    assert kept(3, std=STD) == (pytest.approx(IMAGENET_MEAN), pytest.approx(STD))
    assert kept(2) == ([0.0, 0.0], [1.0, 1.0]) and kept(4) == ([0.0] * 4, [1.0] * 4)
    assert kept(2, (0.5, 0.25), (0.75, 0.5)) == ([0.5, 0.25], [0.75, 0.5])
