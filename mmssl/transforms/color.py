"""Colour and sharpness of whole batches of images, changed on the device, each image by amounts of its own.

Brightness, contrast, saturation, hue and greyness are linear in a pixel's colour, so all of them, in whatever order,
are one matrix for each image and one pass over its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.numerics.color import LUMA, as_unit
from mmssl.numerics.constants import constant, sent
from mmssl.schema import at_least, at_most
from mmssl.transforms.base import Chance, OnDevice, check_range, one

EYE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
FROM_YIQ = tuple(map(tuple, torch.tensor(YIQ).inverse().tolist()))
TINY = 1e-12  # weights below are 0: processors take many times as long for products below 1e-38
LINES = 56  # that a blur makes by one product
CACHED = 2**16  # pixels: 0.8 MB of float32
Affine = tuple[Tensor, Tensor]  # matrix (B, 3, 3) and shift (B, 3): colour -> matrix colour + shift


class Linear(OnDevice):
    """A change of colour that is affine for each image; several in a row are one pass over the pixels."""

    def affine(self, mean: Tensor) -> Affine:
        """Draws the change of each image, given its mean colour (B, 3)."""
        raise NotImplementedError

    def on_device(self, x: Tensor) -> Tensor:
        return recolored(x, [self])


@dataclass(kw_only=True)
class ColorJitter(Linear):
    """Changes brightness, contrast, saturation and hue of each image, in random order.

    Hue turns in YIQ, and values are cut to 0 to 1 once, at the end; torchvision turns in HSV and cuts after each.

    p: the probability.
    brightness: factors within 1 +- so much.
    contrast: factors within 1 +- so much.
    saturation: factors within 1 +- so much.
    hue: turns by up to that share of a circle, either way.
    """

    p: Chance = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2

    def __post_init__(self) -> None:
        values = (self.brightness, self.contrast, self.saturation, self.hue)
        if min(values) < 0 or self.hue > 0.5:
            raise UserError(f"color_jitter's strengths are {values}; expected 0 or more, and a hue of at most 0.5")

    def affine(self, mean: Tensor) -> Affine:
        matrix, shift = _jitter(mean, (self.brightness, self.contrast, self.saturation, self.hue))
        keep = torch.rand(len(mean), device=mean.device) >= one(self.p)
        eye = torch.eye(3, device=mean.device)
        return torch.where(keep[:, None, None], eye, matrix), shift.masked_fill(keep[:, None], 0)

    def active(self) -> bool:
        return one(self.p) > 0 and max(self.brightness, self.contrast, self.saturation, self.hue) > 0


@dataclass(kw_only=True)
class Grayscale(Linear):
    """Takes an image all its colour.

    p: the probability.
    """

    p: Chance = 0.2

    def affine(self, mean: Tensor) -> Affine:
        luma = constant(LUMA, mean.device).expand(3, 3)
        gray = torch.rand(len(mean), device=mean.device) < one(self.p)
        matrix = torch.where(gray[:, None, None], luma, torch.eye(3, device=mean.device))
        return matrix, torch.zeros_like(mean)

    def active(self) -> bool:
        return one(self.p) > 0

    def varies(self) -> bool:
        return 0 < one(self.p) < 1


@dataclass(kw_only=True)
class Blur(OnDevice):
    """Blurs images, of a video all alike, with Gaussians cut at a twentieth of the height.

    p: the probability.
    sigma: range of their width in pixels.
    """

    p: Chance = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        check_range("blur.sigma", self.sigma, 0.01, 100.0)

    def on_device(self, x: Tensor) -> Tensor:
        return blur(x, share=one(self.p), sigma=self.sigma)

    def active(self) -> bool:
        return one(self.p) > 0

    def varies(self) -> bool:
        return 0 < one(self.p) < 1 or (self.active() and self.sigma[0] < self.sigma[1])


@dataclass(kw_only=True)
class Solarize(OnDevice):
    """Inverts what is brighter than the threshold. Grill et al., NeurIPS 2020 (BYOL).

    p: the probability.
    threshold: from 0 to 1.
    """

    p: Chance = 0.2
    threshold: Annotated[float, at_least(0), at_most(1)] = 0.5

    def on_device(self, x: Tensor) -> Tensor:
        return solarize(x, share=one(self.p), threshold=self.threshold)

    def active(self) -> bool:
        return one(self.p) > 0

    def varies(self) -> bool:
        return 0 < one(self.p) < 1


def recolored(x: Tensor, steps: Sequence[Linear]) -> Tensor:
    """Changes the colours of (B, 3, ...) by several steps in one pass."""
    pixels = math.prod(x.shape[2:])
    scale, parts = 255 if x.dtype == torch.uint8 else 1, _parts(x, pixels)
    mean = torch.cat([part.float().flatten(2).mean(dim=2) for part in parts]) / scale
    matrix, shift = torch.eye(3, device=x.device).expand(len(x), 3, 3), torch.zeros_like(mean)
    for step in steps:
        change, more = step.affine(mean)
        matrix, shift, mean = change @ matrix, _moved(change, shift) + more, _moved(change, mean) + more
    made = torch.empty_like(x, dtype=torch.float32, memory_format=torch.contiguous_format)
    each = (_parts(y, pixels) for y in (matrix / scale, shift[:, :, None], made))
    for part, turn, offset, out in zip(parts, *each, strict=True):
        torch.baddbmm(offset, turn, part.float().flatten(2), out=out.flatten(2)).clamp_(0, 1)
    return made


def _parts(x: Tensor, pixels: int) -> tuple[Tensor, ...]:
    """Splits a batch, on a CPU so that what is computed of a part stays in the cache, and not on a GPU."""
    return x.split(max(1, CACHED // pixels if x.device.type == "cpu" else len(x)))


def _moved(matrix: Tensor, colors: Tensor) -> Tensor:
    return (matrix @ colors[:, :, None])[:, :, 0]


def _jitter(mean: Tensor, most: tuple[float, float, float, float]) -> Affine:
    """Draws each image's four changes and their order; mean (B, 3) is its mean colour, which contrast turns on."""
    rows, device = len(mean), mean.device
    draws = torch.rand(4, rows, device=device) * 2 - 1
    brightness, contrast, saturation = (1 + most[i] * draws[i, :, None, None] for i in range(3))
    luma, eye = constant((LUMA,), device), constant(EYE, device)
    hue = _turns(draws[3] * most[3] * 2 * math.pi)
    changes = torch.stack([brightness * eye, contrast * eye, saturation * eye + (1 - saturation) * luma, hue], dim=1)
    orders = torch.rand(rows, 4, device=device).argsort(dim=1)
    ordered = changes.gather(1, orders[:, :, None, None].expand(-1, -1, 3, 3))  # (B, 4, 3, 3)
    kept = torch.where(orders == 1, 1 - contrast[:, :, 0], 0.0)[:, :, None, None]  # of the mean brightness by then
    affine = eye.expand(rows, 3, 3)
    affine = torch.cat([affine, torch.zeros_like(affine[:, :, :1])], dim=2)  # (B, 3, 4), the shift last
    color = torch.cat([mean, torch.ones_like(mean[:, :1])], dim=1)[:, :, None]
    for step, share in zip(ordered.unbind(1), kept.unbind(1), strict=True):
        brightness = luma @ affine @ color  # (B, 1, 1)
        affine = step @ affine
        affine[:, :, 3:] += share * brightness
    return affine[:, :, :3], affine[:, :, 3]


def _turns(angles: Tensor) -> Tensor:
    """Returns matrices (B, 3, 3) that turn the hue by angles (B,), and leave brightness as it is."""
    there, back = constant(YIQ, angles.device), constant(FROM_YIQ, angles.device)
    cos, sin, none = angles.cos(), angles.sin(), torch.zeros_like(angles)
    turn = torch.stack([none + 1, none, none, none, cos, -sin, none, sin, cos], dim=1).view(-1, 3, 3)
    return back @ turn @ there


def blur(x: Tensor, *, share: float, sigma: tuple[float, float] = (0.1, 2.0)) -> Tensor:
    """Blurs a share of images or videos (B, 3, ..., H, W) with Gaussians of random width, cut at H / 20."""
    x = as_unit(x)
    rows = sent((torch.rand(len(x)) < share).nonzero()[:, 0], x.device)  # drawn where their number is known
    if not len(rows):
        return x
    reach = max(1, round(x.shape[-2] / 20))
    widths = torch.empty(len(rows), 1, device=x.device).uniform_(*sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / widths).square())
    kernel = F.threshold(kernel / kernel.sum(dim=1, keepdim=True), TINY, 0.0).to(x.dtype)
    picked = x[rows].flatten(1, -3)  # (b, C, H, W)
    return x.index_copy(0, rows, _filtered(picked, kernel).view(len(rows), *x.shape[1:]))


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Filters images (B, C, H, W) down and across, each by its own kernel (B, K), mirrored beyond their edges.

    As products with a band matrix, some rows at a time: grouped convolutions take 2 to 4 times as long on a CPU.
    """
    (rows, channels, height, width), more = x.shape, kernel.shape[1] - 1
    bands = F.pad(kernel[:, None].expand(-1, LINES, -1), (0, LINES)).flatten(1)[:, :-LINES]
    bands = bands.view(rows, LINES, LINES + more)  # line i holds the kernel from column i on
    tall, across = bands.repeat_interleave(channels, dim=0), bands.mT
    wide = F.pad(x, (more // 2,) * 4, mode="reflect").flatten(0, 1)
    down = x.new_empty(rows * channels, height, width + more)
    for i in range(0, height, LINES):
        n = min(LINES, height - i)
        torch.bmm(tall[:, :n, : n + more], wide[:, i : i + n + more], out=down[:, i : i + n])
    down = down.view(rows, channels * height, width + more)
    made = x.new_empty(rows, channels * height, width)
    for i in range(0, width, LINES):
        n = min(LINES, width - i)
        torch.bmm(down[:, :, i : i + n + more], across[:, : n + more, :n], out=made[:, :, i : i + n])
    return made.view_as(x)


def solarize(x: Tensor, *, share: float, threshold: float = 0.5) -> Tensor:
    """Inverts what is brighter than the threshold in a share of images (B, 3, ...)."""
    x = as_unit(x)
    chosen = torch.rand(len(x), device=x.device) < share
    least = torch.where(chosen, threshold, torch.inf).view(-1, *(1,) * (x.ndim - 1))
    inverted = torch.ge(x, least, out=torch.empty_like(x))  # 1 or 0: no branch that a CPU would have to guess
    return inverted.sub_(x).abs_()
