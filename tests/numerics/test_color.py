"""Colour spaces against hand-made values and scikit-image's formula, worked out in doubles."""

from __future__ import annotations

import pytest
import torch

from mmssl.numerics.color import as_unit, gray, lab, srgb

WHITE = (0.95047, 1.0, 1.08883)
MATRIX = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))


def by_hand(r: float, g: float, b: float) -> tuple[float, float, float]:
    """CIE 1976 of an sRGB colour (IEC 61966-2-1), number by number."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (r, g, b)]
    xyz = [sum(m * v for m, v in zip(row, linear, strict=True)) / w for row, w in zip(MATRIX, WHITE, strict=True)]
    x, y, z = (t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29 for t in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


COLORS = [(0.2, 0.5, 0.9), (0.9, 0.1, 0.3), (0.03, 0.02, 0.01), (0.05, 0.04, 0.041), (0.0, 0.0, 0.02), (0.1, 0.6, 0.0)]


@pytest.mark.parametrize("color", COLORS)
def test_lab_is_the_standards_formula_and_back(color: tuple[float, float, float]) -> None:
    rgb = torch.tensor([color])
    found = lab(rgb)
    torch.testing.assert_close(found, torch.tensor([by_hand(*color)]), rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(srgb(found), rgb, rtol=1e-3, atol=1e-4)


def test_types_and_shapes() -> None:
    whole = torch.tensor([[51, 255, 0]], dtype=torch.uint8)
    torch.testing.assert_close(as_unit(whole), torch.tensor([[0.2, 1.0, 0.0]]))
    floats = torch.rand(2, 3, 4).double()
    assert as_unit(floats) is floats
    assert lab(floats).dtype == torch.float32 and lab(floats).shape == (2, 3, 4)
    assert srgb(lab(floats).double()).dtype == torch.float32
    torch.testing.assert_close(lab(whole), lab(whole / 255))
    film = torch.rand(2, 3, 4, 5, 6)
    torch.testing.assert_close(lab(film)[:, :, 2], lab(film[:, :, 2]))
    torch.testing.assert_close(srgb(film)[:, :, 2], srgb(film[:, :, 2]))


def test_gray_is_the_luma_rounded_where_numbers_are_whole() -> None:
    x = torch.tensor([[10, 200, 33], [0, 0, 5], [255, 255, 255]], dtype=torch.uint8)
    found = gray(x[:, :, None])
    luma = [round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in x.tolist()]
    assert found.dtype == torch.uint8 and found[:, :, 0].tolist() == [[v] * 3 for v in luma]
    assert found.is_contiguous()
    unit = gray(torch.tensor([[0.2, 0.5, 0.9]]).double())
    assert unit.dtype == torch.float64
    torch.testing.assert_close(unit, torch.full((1, 3), 0.2 * 0.299 + 0.5 * 0.587 + 0.9 * 0.114).double())


def test_the_darkest_and_what_srgb_has_not_have_gradients() -> None:
    x = torch.zeros(1, 3, requires_grad=True)
    srgb(lab(x)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    outside = srgb(torch.tensor([[50.0, 120.0, 0.0], [1.0, -60.0, 50.0]]))
    assert outside.isfinite().all() and outside.min() < 0
