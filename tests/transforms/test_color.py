"""Changes of colour in one pass equal torchvision's one after the other, and each picture draws its own."""

from __future__ import annotations

import colorsys

import pytest
import torch
from torchvision.transforms.v2 import functional as T

from mmssl.transforms import color


def pictures(rows: int = 6, size: int = 12, *, films: bool = False) -> torch.Tensor:
    """Smooth enough, and far enough from black and white, that nothing is cut off."""
    shape = (rows, 3, 4, size, size) if films else (rows, 3, size, size)
    return 0.4 + 0.2 * torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("films", [False, True])
def test_jitter_is_torchvisions_in_the_order_drawn(films: bool) -> None:
    x = pictures(films=films)
    torch.manual_seed(1)
    found = color.color_jitter(x, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.0)
    torch.manual_seed(1)
    draws, orders = torch.rand(4, len(x)) * 2 - 1, torch.rand(len(x), 4).argsort(dim=1)
    assert len(orders.unique(dim=0)) > 1
    for picture, got, factors, order in zip(x, found, 1 + 0.2 * draws[:3].T, orders, strict=True):
        expected = picture.flatten(1, -2)  # the frames of a film are one picture
        for step in order.tolist():
            change = (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation, lambda image, _: image)[step]
            expected = change(expected, float(factors[min(step, 2)]))
        torch.testing.assert_close(got, expected.view_as(got), atol=2e-4, rtol=0)


def test_hue_turns_and_leaves_brightness() -> None:
    x = pictures()
    luma = torch.tensor(color.LUMA)
    found = color.color_jitter(x, brightness=0, contrast=0, saturation=0, hue=0.5)
    torch.testing.assert_close(*(torch.einsum("bchw,c->bhw", y, luma) for y in (found, x)), atol=2e-3, rtol=0)
    assert (found - x).abs().mean() > 0.02
    red = torch.tensor([0.6, 0.4, 0.4]).view(1, 3, 1, 1).expand(1000, 3, 1, 1)
    hues = [colorsys.rgb_to_hsv(*p.flatten().tolist())[0] for p in color.color_jitter(red, hue=0.1)]
    assert max(min(h, 1 - h) for h in hues) == pytest.approx(0.1, abs=0.04)


def test_gray_pictures_and_shares() -> None:
    x = (pictures(400) * 255).to(torch.uint8)
    found = color.color_jitter(x, jittered=0.0, grayscale=0.25)
    gray = (found.amax(1) - found.amin(1)).amax((1, 2)) < 1e-5
    assert 70 <= gray.sum() <= 130
    torch.testing.assert_close(found[~gray], x[~gray].float() / 255)
    torch.testing.assert_close(found[gray], T.rgb_to_grayscale(x[gray].float() / 255, 3), atol=1e-3, rtol=0)
    jittered = (color.color_jitter(x, jittered=0.5) - x.float() / 255).abs().amax((1, 2, 3)) > 1e-4
    assert 160 <= jittered.sum() <= 240
    everything = color.color_jitter(x[:50] * 0 + 250, brightness=0.8)
    assert everything.amax() <= 1


@pytest.mark.parametrize("films", [False, True])
def test_blur_is_torchvisions(films: bool) -> None:
    x = torch.rand(3, 3, 4, 40, 40) if films else torch.rand(3, 3, 40, 40)
    found = color.blur(x, share=1.0, sigma=(1.5, 1.5))
    torch.testing.assert_close(found, T.gaussian_blur(x, [5, 5], [1.5, 1.5]), atol=1e-5, rtol=1e-5)
    assert color.blur(x, share=0.0).equal(x)
    many = torch.rand(200, 3, 8, 8)
    blurred = (color.blur(many, share=0.3) != many).flatten(1).any(1)
    assert 30 <= blurred.sum() <= 90


def test_solarize_inverts_what_is_bright() -> None:
    x = torch.rand(200, 3, 4, 4)
    found = color.solarize(x, share=1.0)
    torch.testing.assert_close(found, T.solarize(x, 0.5))
    changed = (color.solarize(x, share=0.2) != x).flatten(1).any(1)
    assert 20 <= changed.sum() <= 60
