"""RandAugment's operations against PIL's, and that each picture has its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from mmssl.transforms.rand_augment import FILL, OPERATIONS, rand_augment


def smooth_pictures() -> torch.Tensor:
    raw = torch.rand(2, 3, 5, 5) * 0.8 + 0.1
    big = torch.nn.functional.interpolate(raw, size=24, mode="bicubic").clamp(0, 1)
    return (big * 255).round() / 255


def by_pil(x: torch.Tensor, change) -> torch.Tensor:  # type: ignore[no-untyped-def]
    made = []
    for picture in x:
        raw = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        made.append(torch.from_numpy(np.array(change(Image.fromarray(raw)))).permute(2, 0, 1) / 255)
    return torch.stack(made)


PIL = {
    "auto_contrast": (0.5, ImageOps.autocontrast),
    "equalize": (0.5, ImageOps.equalize),
    "invert": (0.5, ImageOps.invert),
    "posterize": (0.75, lambda p: ImageOps.posterize(p, 3)),
    "solarize": (128 / 255, lambda p: ImageOps.solarize(p, 128)),
    "color": (0.8, lambda p: ImageEnhance.Color(p).enhance(0.1 + 1.8 * 0.8)),
    "contrast": (0.8, lambda p: ImageEnhance.Contrast(p).enhance(0.1 + 1.8 * 0.8)),
    "brightness": (0.3, lambda p: ImageEnhance.Brightness(p).enhance(0.1 + 1.8 * 0.3)),
    "sharpness": (0.8, lambda p: ImageEnhance.Sharpness(p).enhance(0.1 + 1.8 * 0.8)),
}


@pytest.mark.parametrize("name", PIL)
def test_operations_are_those_of_pil(name: str) -> None:
    x = smooth_pictures()
    strength, change = PIL[name]
    found = OPERATIONS[name](x, torch.full((2,), strength)).clamp(0, 1)
    away = (found - by_pil(x, change)).abs() * 255
    assert away.mean() < 1.0, "levels, by rounding"
    assert away.max() < 4


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_moves_keep_an_even_picture_but_for_what_comes_in(name: str) -> None:
    found = OPERATIONS[name](torch.ones(8, 3, 24, 24), torch.ones(8))
    assert (found[:, :, 11:13, 11:13] == 1).all() or name.startswith("translate")
    outside = (found - FILL).abs() < 1e-4
    assert outside.any(dim=(1, 2, 3)).all()
    assert len({tuple(row.flatten().tolist()) for row in outside}) == 2, "either way"
    still = OPERATIONS[name](torch.ones(2, 3, 24, 24), torch.zeros(2))
    torch.testing.assert_close(still, torch.ones(2, 3, 24, 24))


def test_each_picture_has_its_own_and_some_stay() -> None:
    x = smooth_pictures()[:1].expand(64, -1, -1, -1)
    found = rand_augment(x, operations=1)
    same = (found - x).abs().amax((1, 2, 3)) < 1e-3
    assert 16 < same.sum() < 48
    assert len({round(float(one.sum()), 2) for one in found}) > 12
    assert found.min() >= 0 and found.max() <= 1
    torch.manual_seed(5)
    first = rand_augment(x)
    torch.manual_seed(5)
    assert torch.equal(first, rand_augment(x))
