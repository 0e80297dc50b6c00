"""Colour on the device: grey images, and CIE Lab."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl.numerics.constants import constant

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
# Linear sRGB to CIE XYZ, rows divided by the white point D65 (IEC 61966-2-1).
XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
RGB = tuple(map(tuple, torch.tensor(XYZ).inverse().tolist()))  # and back


def as_unit(x: Tensor) -> Tensor:
    """Returns images or videos, uint8 or floats in [0, 1], as floats."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def gray(x: Tensor) -> Tensor:
    """Takes the colour from RGB (B, 3, ...), uint8 or floats in [0, 1]: three equal channels of the same type."""
    luma = torch.einsum("bc...,c->b...", x.float(), constant(LUMA, x.device))
    kept = luma if x.is_floating_point() else luma.round()
    return kept.to(x.dtype)[:, None].expand_as(x).contiguous()


def lab(x: Tensor) -> Tensor:
    """Turns sRGB (B, 3, ...), uint8 or floats in [0, 1], to CIE L (0 to 100), a and b (about -110 to 110), float32."""
    unit = as_unit(x).float()
    linear = torch.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("bc...,dc->bd...", linear, constant(XYZ, x.device))
    bent = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-6) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    fx, fy, fz = bent.unbind(1)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=1)


def srgb(x: Tensor) -> Tensor:
    """Turns Lab (B, 3, ...) back to sRGB, float32; colours that sRGB has not lie outside 0 to 1, and `lab` undoes them.

    So an image can be shown without its colour, or at one lightness, and still be an image to any encoder.
    """
    lightness, a, b = x.float().unbind(1)
    fy = (lightness + 16) / 116
    bent = torch.stack([fy + a / 500, fy, fy - b / 200], dim=1)
    xyz = torch.where(bent > 6 / 29, bent**3, (bent - 4 / 29) * 3 * (6 / 29) ** 2)
    linear = torch.einsum("bd...,cd->bc...", xyz, constant(RGB, x.device))
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=1e-6) ** (1 / 2.4) - 0.055)
