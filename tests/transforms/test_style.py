"""Pictures drawn in other styles, against values by hand and by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from mmssl.errors import UserError
from mmssl.transforms import style
from mmssl.transforms.geometry import warp
from mmssl.transforms.style import Contour, FewTones, Pixelate, RandomAffine, Shading, Style, ToneCurves


def test_lines_stand_where_colours_meet() -> None:
    x = torch.full((1, 3, 5, 8), 0.8)
    x[:, 1, :, 4:] = 0.3  # green alone changes, by 0.5, between columns 3 and 4
    for width, lined in ((1, {3, 4}), (2, {2, 3, 4, 5})):
        assert style.edges(x, width)[0, 0, 2].tolist() == pytest.approx([0.5 * (n in lined) for n in range(8)])
    drawn = Contour(p=1.0, width=1, gain=1.2, strength=(0.5, 0.5)).on_device(x)[0, :, 2]
    expected = x[0, :, 2].clone()
    expected[:, 3:5] *= 1 - 0.5 * 1.2 * 0.5
    torch.testing.assert_close(drawn, expected)
    dark = Contour(p=1.0, width=1, gain=9.0, strength=(1.0, 1.0)).on_device(x)[0, :, 2]
    assert not dark[:, 3:5].any(), "the change times the gain is at most 1: black"


def test_lines_are_as_dark_as_they_are_drawn() -> None:
    x = torch.zeros(500, 3, 3, 4)
    x[..., 2:] = 1
    lines = 1 - Contour(p=1.0, strength=(0.2, 0.6)).on_device(x)[:, 0, 0, 2]
    assert stats.kstest(lines.numpy(), "uniform", (0.2, 0.4)).pvalue > 1e-3


def test_few_tones_are_even_levels() -> None:
    x = torch.rand(300, 3, 4, 4)
    found = FewTones(p=1.0, levels=(3, 5)).on_device(x)
    many = []
    for before, after in zip(x.numpy(), found.numpy(), strict=True):
        fits = [n for n in (3, 4, 5) if np.allclose(np.round(before * (n - 1)) / (n - 1), after, atol=1e-6)]
        assert fits
        many.append(fits[0])
    assert min(np.bincount(many, minlength=6)[3:]) > 60, "each number of levels is as likely"


def test_curves_against_numpy() -> None:
    x, heights = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 5)
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    found = style.through(x, heights)
    knots = np.linspace(0, 1, 5)
    for image in range(2):
        for channel in range(3):
            expected = np.interp(x[image, channel].numpy(), knots, heights[image, channel].numpy())
            np.testing.assert_allclose(found[image, channel].numpy(), expected, atol=1e-6)


def test_each_channel_has_a_curve_of_its_own() -> None:
    grey = torch.full((400, 3, 1, 1), 0.5)
    found = ToneCurves(p=1.0, knots=3, shift=0.3).on_device(grey)[:, :, 0, 0]
    assert stats.kstest(found.flatten().numpy(), "uniform", (0.2, 0.6)).pvalue > 1e-3
    assert np.abs(np.corrcoef(found.T.numpy())[np.triu_indices(3, 1)]).max() < 0.2
    torch.testing.assert_close(ToneCurves(p=1.0, knots=7, shift=0.0).on_device(grey), grey)


def test_shading_changes_brightness_and_not_hue() -> None:
    x = torch.tensor([0.6, 0.4, 0.2]).view(1, 3, 1, 1).expand(200, 3, 6, 6)
    factor = Shading(p=1.0, cells=6, strength=0.25).on_device(x) / x
    torch.testing.assert_close(factor[:, 1:], factor[:, :1].expand(-1, 2, -1, -1))
    assert stats.kstest(factor[:, 0].flatten()[::7].numpy(), "uniform", (0.75, 0.5)).pvalue > 1e-3
    assert (Shading(p=1.0, cells=1).on_device(x).std(dim=(2, 3)) < 1e-6).all(), "one cell is the whole picture"


@pytest.mark.parametrize("size", [1, 2, 3, 6, 12])
def test_large_pixels_against_pillow(size: int) -> None:
    """Of a height and a width that the size divides."""
    x = torch.rand(2, 3, 12, 24)
    found = Pixelate(p=1.0, size=(size, size)).on_device(x)
    for channel, shown in zip(x.flatten(0, 1), found.flatten(0, 1), strict=True):
        small = Image.fromarray(channel.numpy()).resize((24 // size, 12 // size), Image.Resampling.BOX)
        expected = small.resize((24, 12), Image.Resampling.NEAREST)
        np.testing.assert_allclose(shown.numpy(), np.asarray(expected), atol=1e-5)


def test_large_pixels_are_as_large_as_drawn() -> None:
    """Places 0.5, 1.5, ... are shared out among parts of 2.5: two or three to each, and what is left to the last."""
    means = style.means_within(torch.tensor([[2.5]]), 9)[0]
    assert [row.nonzero().flatten().tolist() for row in means[[0, 2, 5, 8]]] == [[0, 1], [2, 3, 4], [5, 6], [7, 8]]
    torch.testing.assert_close(means.sum(1), torch.ones(9))
    found = Pixelate(p=1.0, size=(2.0, 4.0)).on_device(torch.rand(600, 3, 40, 80))[:, 0]
    down, across = (1 + (found.diff(dim=axis).abs() > 1e-6).any(3 - axis).sum(1).numpy() for axis in (1, 2))
    assert stats.kstest(80 / (across - 0.5), "uniform", (2.0, 2.0)).statistic < 0.15, "but for what counting rounds"
    assert np.abs(across / 2 - down).max() <= 1, "as large down as across"


@pytest.mark.parametrize("step", [Contour, FewTones, ToneCurves, Shading, Pixelate])
def test_a_share_is_changed_and_the_rest_stays(step: type[Style]) -> None:
    x = (torch.rand(300, 3, 8, 8) * 255).byte()
    found = step(p=0.3).on_device(x)
    assert isinstance(found, torch.Tensor)
    changed = (found != x / 255).flatten(1).any(1)
    assert 0.2 < changed.float().mean() < 0.4
    assert found.min() >= 0 and found.max() <= 1
    assert [step(p=p).active() for p in (0.0, 0.1)] == [False, True]


def test_an_affine_map_by_hand() -> None:
    """A quarter larger, twice as far stretched across as down, and moved: what corner and centre show."""
    x = torch.rand(1, 3, 9, 9)
    torch.manual_seed(0)
    same = RandomAffine(p=1.0, degrees=0, scale=(1, 1), stretch=1, shear=0, shift=0)
    shown, place = same.on_device(x)
    torch.testing.assert_close(shown, x)
    torch.testing.assert_close(place[0], torch.eye(2, 3))
    smaller, place = RandomAffine(p=1.0, degrees=0, scale=(0.5, 0.5), stretch=1, shear=0, shift=0, fill=0.25).on_device(
        x
    )
    assert (smaller[..., :2] == 0.25).all() and (smaller[:, :, -2:] == 0.25).all(), "a margin of a quarter on each side"
    torch.testing.assert_close(smaller[..., 4, 4], x[..., 4, 4])
    torch.testing.assert_close(place[0], torch.tensor([[2.0, 0, -0.5], [0, 2.0, -0.5]]))


def test_affine_maps_are_as_wide_as_their_options() -> None:
    x = torch.zeros(2000, 3, 4, 4)
    none = {"degrees": 0.0, "scale": (1.0, 1.0), "stretch": 1.0, "shear": 0.0, "shift": 0.0}

    def drawn(**one: object) -> np.ndarray:
        return RandomAffine(p=1.0, **none | one).matrix(x).numpy()  # type: ignore[arg-type]

    def uniform(values: np.ndarray, low: float, high: float) -> bool:
        return bool(stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3)

    turned = drawn(degrees=30.0)
    assert uniform(np.rad2deg(np.arctan2(turned[:, 1, 0], turned[:, 0, 0])), -30, 30)
    assert uniform(1 / drawn(scale=(0.5, 1.5))[:, 0, 0], 0.5, 1.5)
    stretched = drawn(stretch=1.5)
    assert uniform(np.log(stretched[:, 1, 1] / stretched[:, 0, 0]), -np.log(1.5), np.log(1.5))
    np.testing.assert_allclose(stretched[:, 0, 0] * stretched[:, 1, 1], 1, rtol=1e-5)
    assert uniform(drawn(shear=0.3)[:, 0, 1], -0.3, 0.3)
    assert all(uniform(drawn(shift=0.2)[:, axis, 2], -0.4, 0.4) for axis in (0, 1)), "in half sides"
    kept = RandomAffine(p=0.25, degrees=30.0).matrix(x) == torch.eye(2, 3)
    assert 0.7 < kept.flatten(1).all(1).float().mean() < 0.8


def test_places_say_where_what_is_shown_lies() -> None:
    step, x = RandomAffine(p=1.0, fill=0.0), torch.rand(1, 3, 12, 12)
    torch.manual_seed(3)
    matrix = step.matrix(x)
    torch.manual_seed(3)
    shown, place = step.on_device(x)
    torch.testing.assert_close(shown, warp(x, matrix, fill=0.0))
    u, v = 0.3, 0.8
    there = matrix[0] @ torch.tensor([2 * u - 1, 2 * v - 1, 1])
    torch.testing.assert_close(place[0] @ torch.tensor([u, v, 1]), (there + 1) / 2)


def test_wrong_options() -> None:
    for make in (
        lambda: Contour(strength=(0.5, 1.5)),
        lambda: FewTones(levels=(1, 4)),
        lambda: Pixelate(size=(0.5, 2.0)),
        lambda: RandomAffine(scale=(0.0, 1.0)),
    ):
        with pytest.raises(UserError, match="expected two ascending numbers"):
            make()
