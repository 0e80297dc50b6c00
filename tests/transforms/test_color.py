"""Changes of colour in one pass equal torchvision's one after the other, and each image draws its own."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms.v2 import functional as T

from mmssl.errors import UserError
from mmssl.transforms import color
from mmssl.transforms.color import Blur, ColorJitter, Grayscale, Solarize, recolored


def jittered(x: torch.Tensor, *, p: float = 1.0, grayscale: float = 0.0, **most: float) -> torch.Tensor:
    mild = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    return recolored(x, [ColorJitter(p=p, **mild | most), Grayscale(p=grayscale)])


def pictures(rows: int = 6, size: int = 12, *, films: bool = False) -> torch.Tensor:
    """Smooth enough, and far enough from black and white, that nothing is cut off."""
    shape = (rows, 3, 4, size, size) if films else (rows, 3, size, size)
    return 0.4 + 0.2 * torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("films", [False, True])
def test_jitter_is_torchvisions_in_the_order_drawn(films: bool) -> None:
    x = pictures(films=films)
    torch.manual_seed(1)
    found = jittered(x, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.0)
    torch.manual_seed(1)
    draws, orders = torch.rand(4, len(x)) * 2 - 1, torch.rand(len(x), 4).argsort(dim=1)
    assert len(orders.unique(dim=0)) > 1
    for picture, got, factors, order in zip(x, found, 1 + 0.2 * draws[:3].T, orders, strict=True):
        expected = picture.flatten(1, -2)  # the frames of a video are one image
        for step in order.tolist():
            change = (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation, lambda image, _: image)[step]
            expected = change(expected, float(factors[min(step, 2)]))
        torch.testing.assert_close(got, expected.view_as(got), atol=2e-4, rtol=0)


def test_hue_turns_and_leaves_brightness() -> None:
    x = pictures()
    luma = torch.tensor(color.LUMA)
    found = jittered(x, brightness=0, contrast=0, saturation=0, hue=0.5)
    torch.testing.assert_close(*(torch.einsum("bchw,c->bhw", y, luma) for y in (found, x)), atol=2e-3, rtol=0)
    assert (found - x).abs().mean() > 0.02
    red = torch.tensor([0.6, 0.4, 0.4]).view(1, 3, 1, 1).expand(1000, 3, 1, 1)
    hues = [colorsys.rgb_to_hsv(*p.flatten().tolist())[0] for p in jittered(red, hue=0.1)]
    assert max(min(h, 1 - h) for h in hues) == pytest.approx(0.1, abs=0.04)


def test_gray_pictures_and_shares() -> None:
    x = (pictures(400) * 255).to(torch.uint8)
    found = jittered(x, p=0.0, grayscale=0.25)
    gray = (found.amax(1) - found.amin(1)).amax((1, 2)) < 1e-5
    assert 70 <= gray.sum() <= 130
    torch.testing.assert_close(found[~gray], x[~gray].float() / 255)
    torch.testing.assert_close(found[gray], T.rgb_to_grayscale(x[gray].float() / 255, 3), atol=1e-3, rtol=0)
    changed = (jittered(x, p=0.5) - x.float() / 255).abs().amax((1, 2, 3)) > 1e-4
    assert 160 <= changed.sum() <= 240
    everything = jittered(x[:50] * 0 + 250, brightness=0.8)
    assert everything.amax() <= 1


@pytest.mark.parametrize("films", [False, True])
def test_blur_is_torchvisions(films: bool) -> None:
    x = torch.rand(3, 3, 4, 40, 40) if films else torch.rand(3, 3, 40, 40)
    found = color.blur(x, share=1.0, sigma=(1.5, 1.5))
    torch.testing.assert_close(found, T.gaussian_blur(x, [5, 5], [1.5, 1.5]), atol=1e-5, rtol=1e-5)
    assert color.blur(x, share=0.0).equal(x)
    large = torch.rand(2, 3, 130, 75)  # more lines than one product makes, and not a multiple of them
    found = color.blur(large, share=1.0, sigma=(2.5, 2.5))
    torch.testing.assert_close(found, T.gaussian_blur(large, [13, 13], [2.5, 2.5]), atol=1e-5, rtol=1e-5)
    many = torch.rand(200, 3, 8, 8)
    blurred = (color.blur(many, share=0.3) != many).flatten(1).any(1)
    assert 30 <= blurred.sum() <= 90


def test_solarize_inverts_what_is_bright() -> None:
    x = torch.rand(200, 3, 4, 4)
    found = color.solarize(x, share=1.0)
    torch.testing.assert_close(found, T.solarize(x, 0.5))
    changed = (color.solarize(x, share=0.2) != x).flatten(1).any(1)
    assert 20 <= changed.sum() <= 60


def turn_hue(picture: torch.Tensor, share: float) -> torch.Tensor:
    """Turns chrominance (I, Q) of (3, ...) by that share of a circle, pixel by pixel, in float64."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    angle = share * 2 * math.pi
    y, i, q = to_yiq @ picture.flatten(1).double().numpy()
    turned = np.stack([y, math.cos(angle) * i - math.sin(angle) * q, math.sin(angle) * i + math.cos(angle) * q])
    return torch.from_numpy(np.linalg.solve(to_yiq, turned)).to(picture.dtype).view_as(picture)


def in_sequence(x: torch.Tensor, draws: torch.Tensor, orders: torch.Tensor, most: tuple[float, ...]) -> torch.Tensor:
    """Changes each image by torchvision's functions one after the other, and turns its hue as above."""
    steps = (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation, turn_hue)
    changed = []
    for picture, drawn, order in zip(x, draws.T, orders, strict=True):
        for step in order.tolist():
            amount = most[step] * float(drawn[step]) + (step < 3)
            picture = steps[step](picture, amount)
        changed.append(picture)
    return torch.stack(changed)


def test_jitter_and_then_grey_are_torchvisions_in_sequence() -> None:
    """All four changes in the order drawn, where an image is jittered; grey comes last, of what there is by then."""
    x, most = pictures(60), (0.15, 0.1, 0.2, 0.05)
    options: Any = dict(zip(("brightness", "contrast", "saturation", "hue"), most, strict=True))
    torch.manual_seed(1)
    found = jittered(x, **options, p=0.6, grayscale=0.3)
    torch.manual_seed(1)
    draws, orders = torch.rand(4, len(x)) * 2 - 1, torch.rand(len(x), 4).argsort(dim=1)
    kept, gray = torch.rand(len(x)) >= 0.6, torch.rand(len(x)) < 0.3
    expected = in_sequence(x, draws, orders, most)
    expected[kept] = x[kept]
    expected[gray] = T.rgb_to_grayscale(expected[gray], 3)
    assert all(each.sum() > 3 for each in (kept & gray, kept & ~gray, ~kept & gray, ~kept & ~gray))
    assert len(orders.unique(dim=0)) > 15
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=0)
    torch.testing.assert_close(found[kept & ~gray], x[kept & ~gray])


ALONE: Any = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def measured(name: str, x: torch.Tensor, found: torch.Tensor) -> np.ndarray:
    """Returns by how much each image was changed: brightness on black, contrast about its mean, and so on."""
    luma = torch.tensor([0.299, 0.587, 0.114])
    if name == "brightness":
        return (found.mean((1, 2, 3)) / x.mean((1, 2, 3)) - 1).numpy()
    if name == "contrast":
        gray, changed = (torch.einsum("bchw,c->bhw", y, luma).flatten(1) for y in (x, found))
        torch.testing.assert_close(changed.mean(1), gray.mean(1), atol=1e-4, rtol=0)
        return (changed.std(1) / gray.std(1) - 1).numpy()
    if name == "saturation":
        away, changed = (y - torch.einsum("bchw,c->bhw", y, luma)[:, None] for y in (x, found))
        return ((changed * away).sum((1, 2, 3)) / away.square().sum((1, 2, 3)) - 1).numpy()
    to_yiq = torch.tensor([[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    before, after = (torch.view_as_complex(torch.einsum("bchw,dc->bhwd", y, to_yiq).contiguous()) for y in (x, found))
    return (torch.angle((after * before.conj()).sum((1, 2))) / (2 * math.pi)).numpy()


@pytest.mark.parametrize(
    ("name", "default"), [("brightness", 0.8), ("contrast", 0.8), ("saturation", 0.8), ("hue", 0.2)]
)
def test_each_change_is_uniform_up_to_its_option(name: str, default: float) -> None:
    x = 0.35 + 0.1 * torch.rand(600, 3, 6, 6)
    for most, options in ((default, {}), (default / 2, {name: default / 2})):
        others = {other: 0.0 for other in ALONE if other != name}
        found = measured(name, x, recolored(x, [ColorJitter(p=1.0, **others, **options)]))
        assert stats.kstest(found, "uniform", (-most, 2 * most)).pvalue > 1e-3
        assert np.abs(found).max() > 0.97 * most
    torch.testing.assert_close(jittered(x, **ALONE), x)


def test_colours_stay_within_bounds_and_of_their_type() -> None:
    for value in (0.01, 0.99):
        x = torch.full((50, 3, 4, 4), value)
        x[:, :, :2] = 0.5
        found = jittered(x, brightness=0.9, contrast=0.9)
        assert found.min() >= 0
        assert found.max() <= 1
    assert jittered(torch.full((40, 3, 2, 2), 200, dtype=torch.uint8), brightness=0.9).max() == 1
    assert jittered((pictures(9) * 255).byte()).dtype == torch.float32


@pytest.mark.parametrize(("options", "low", "high"), [({}, 0.1, 2.0), ({"sigma": (1.0, 1.5)}, 1.0, 1.5)])
def test_each_picture_is_blurred_by_a_width_of_its_own(options: Any, low: float, high: float) -> None:
    """Of a blurred dot the value beside the middle is exp(-1 / 2 s^2) of it."""
    dots = torch.zeros(200, 3, 11, 11, dtype=torch.float64)
    dots[:, :, 5, 5] = 1
    found = color.blur(dots, share=1.0, **options)
    torch.testing.assert_close(found.sum((2, 3)), torch.ones(200, 3, dtype=torch.float64), atol=1e-6, rtol=0)
    sigma = (0.5 / (found[..., 5, 5] / found[..., 5, 6]).log()).sqrt()  # (B, C)
    assert (sigma.amax(1) - sigma.amin(1)).max() < 1e-3, "one for its channels"
    assert stats.kstest(sigma[:, 0].numpy(), "uniform", (low, high - low)).pvalue > 1e-3
    torch.testing.assert_close(found, found.transpose(2, 3))


@pytest.mark.parametrize(
    ("height", "width", "reach"), [(40, 90, 2), (100, 60, 5), (8, 40, 1), (29, 29, 1), (31, 31, 2), (3, 3, 1)]
)
def test_a_blur_reaches_a_twentieth_of_the_height(height: int, width: int, reach: int) -> None:
    dot = torch.zeros(1, 3, height, width)
    dot[:, :, height // 2, width // 2] = 1
    found = color.blur(dot, share=1.0, sigma=(2.0, 2.0))[0, 0] > 0
    assert found.any(1).sum() == 2 * reach + 1
    assert found.any(0).sum() == 2 * reach + 1


def test_a_blur_makes_no_denormal_numbers() -> None:
    """Products with weights below 1e-38, of narrow Gaussians far from the middle, took most of its time."""
    dots = torch.zeros(100, 3, 101, 101)
    dots[:, :, 50, 50] = 1 / 255
    found = color.blur(dots, share=1.0, sigma=(0.1, 1.0))
    assert found[found > 0].min() > torch.finfo(torch.float32).tiny
    torch.testing.assert_close(found.sum((2, 3)), torch.full((100, 3), 1 / 255))


def test_pictures_of_bytes_are_changed_as_their_floats() -> None:
    x = torch.randint(0, 256, (5, 3, 3, 9, 7), dtype=torch.uint8)
    found = []
    for given in (x, x.float() / 255, x.transpose(3, 4).contiguous().transpose(3, 4)):
        torch.manual_seed(6)
        found.append(recolored(given, [ColorJitter(p=0.8), Grayscale(p=0.4)]))
    assert (found[0] - x.float() / 255).abs().max() > 0.1
    for each in found[1:]:
        torch.testing.assert_close(each, found[0], atol=1e-6, rtol=0)


def test_frames_of_a_film_are_blurred_alike_and_not_into_each_other() -> None:
    film = torch.rand(4, 3, 5, 24, 24)
    torch.manual_seed(2)
    found = color.blur(film, share=0.5)
    torch.manual_seed(2)
    chosen = (torch.rand(4) < 0.5).nonzero()[:, 0]
    sigma = torch.empty(len(chosen), 1).uniform_(0.1, 2.0)
    assert 0 < len(chosen) < 4
    expected = film.clone()
    for row, width in zip(chosen, sigma[:, 0].tolist(), strict=True):
        for frame in range(5):
            expected[row, :, frame] = T.gaussian_blur(film[row, :, frame], [3, 3], [width, width])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_shares_of_blurred_and_solarized_pictures(share: float) -> None:
    x = 0.6 + 0.4 * torch.rand(2000, 3, 4, 4)
    for found in (color.blur(x, share=share), color.solarize(x, share=share)):
        changed = (found != x).flatten(1).any(1).float().mean()
        assert changed == pytest.approx(share, abs=0.035)
    assert color.blur((x * 255).byte(), share=0.0).dtype == torch.float32


def test_solarize_inverts_from_the_threshold_on() -> None:
    x = torch.tensor([0.0, 0.49, 0.5, 0.51, 0.7, 1.0]).view(1, 1, 1, 6).expand(2, 3, 1, 6)
    for threshold, inverted in ((None, [0.0, 0.49, 0.5, 0.49, 0.3, 0.0]), (0.7, [0.0, 0.49, 0.5, 0.51, 0.3, 0.0])):
        found = color.solarize(x, share=1.0, **({} if threshold is None else {"threshold": threshold}))
        torch.testing.assert_close(found, torch.tensor(inverted).expand(2, 3, 1, 6))
    half = color.solarize(torch.full((1, 3, 1, 1), 0.75), share=1.0, threshold=0.75)
    assert half.eq(0.25).all()
    film = torch.rand(40, 3, 2, 4, 4)
    changed = color.solarize(film, share=0.5) != film
    assert (changed.flatten(1).any(1) == changed[:, :, 0].flatten(1).any(1)).all(), "all frames alike"


def test_steps_in_a_row_are_one_pass_and_equal_one_after_the_other() -> None:
    """As long as nothing is cut off; contrast turns on the mean that the steps before it left."""
    x = pictures(40)
    steps = [ColorJitter(p=0.7, brightness=0.1, contrast=0.2, saturation=0.2, hue=0.05), Grayscale(p=0.4)] * 2
    torch.manual_seed(4)
    found = recolored(x, steps)
    torch.manual_seed(4)
    expected = x
    for step in steps:
        expected = step.on_device(expected)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert recolored(pictures(3), []).equal(pictures(3))


def test_steps_hand_on_their_options() -> None:
    x = torch.rand(300, 3, 40, 40)
    torch.manual_seed(5)
    found = Blur(p=0.4, sigma=(1.0, 1.5)).on_device(x)
    torch.manual_seed(5)
    assert found.equal(color.blur(x, share=0.4, sigma=(1.0, 1.5)))
    torch.manual_seed(5)
    found = Solarize(p=0.3, threshold=0.7).on_device(x)
    torch.manual_seed(5)
    assert found.equal(color.solarize(x, share=0.3, threshold=0.7))


CHANGES = [  # step, whether it changes anything, whether by chance
    (ColorJitter(p=0.0), False, False),
    (ColorJitter(p=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0), False, False),
    (ColorJitter(p=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.1), True, True),
    (Grayscale(p=0.0), False, False),
    (Grayscale(p=0.5), True, True),
    (Grayscale(p=1.0), True, False),
    (Blur(p=0.0), False, False),
    (Blur(p=1.0), True, True),
    (Blur(p=1.0, sigma=(1.0, 1.0)), True, False),
    (Blur(p=0.5, sigma=(1.0, 1.0)), True, True),
    (Solarize(p=0.0), False, False),
    (Solarize(p=0.2), True, True),
    (Solarize(p=1.0), True, False),
]


@pytest.mark.parametrize(("step", "active", "varies"), CHANGES)
def test_what_a_step_says_of_itself_is_what_it_does(step: Any, active: bool, varies: bool) -> None:
    """A step that is not active is left out, and one that does not vary sets no two views apart."""
    assert (step.active(), step.varies()) == (active, varies)
    x = (0.6 + 0.2 * torch.rand(3, 20, 20)).expand(40, 3, 20, 20)
    found = step.on_device(x)
    assert bool((found - x).abs().max() > 1e-5) == active
    assert bool((found - found[:1]).abs().max() > 1e-5) == varies


@pytest.mark.parametrize("bad", [{"brightness": -0.1}, {"contrast": -1.0}, {"saturation": -0.1}, {"hue": 0.51}])
def test_strengths_that_cannot_be(bad: Any) -> None:
    ColorJitter(hue=0.5, brightness=3.0)
    with pytest.raises(
        UserError, match="color_jitter's strengths are .*; expected 0 or more, and a hue of at most 0.5"
    ):
        ColorJitter(**bad)


@pytest.mark.parametrize("bad", [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_widths_of_blur_that_cannot_be(bad: Any) -> None:
    with pytest.raises(UserError, match=r"blur.sigma is \(.*\); expected two ascending numbers"):
        Blur(sigma=bad)
