"""Colour and sharpness of whole batches of pictures, changed on the device, each picture by amounts of its own.

Brightness, contrast, saturation, hue and greyness are linear in a pixel's colour, so all of them, in whatever order,
are one matrix for each picture and one pass over its pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.numerics.color import LUMA, as_unit

YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
Affine = tuple[Tensor, Tensor]  # matrix (B, 3, 3) and shift (B, 3): colour -> matrix colour + shift


def color_jitter(
    x: Tensor,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    jittered: float = 1.0,
    grayscale: float = 0.0,
) -> Tensor:
    """Changes brightness, contrast, saturation and hue of (B, 3, ...) in random order, and takes some all colour.

    The first three are multiplied by a factor within 1 +- the option, hue turns by up to that share of a circle (in
    YIQ; torchvision turns in HSV, and cuts to [0, 1] after every step, which is done here once at the end).
    jittered: the share of pictures that are jittered; grayscale: of those that lose their colour after that.
    """
    x = as_unit(x)
    flat = x.flatten(2)  # (B, 3, P)
    changed = _jitter(flat.mean(dim=2), (brightness, contrast, saturation, hue))
    keep = torch.rand(len(x), device=x.device) >= jittered
    eye, luma = torch.eye(3, device=x.device), torch.tensor(LUMA).to(x.device, non_blocking=True).expand(3, 3)
    matrix = torch.where(keep[:, None, None], eye, changed[0])
    shift = changed[1].masked_fill(keep[:, None], 0)
    gray = torch.rand(len(x), device=x.device) < grayscale
    matrix = torch.where(gray[:, None, None], luma @ matrix, matrix)
    shift = torch.where(gray[:, None], shift @ luma.T, shift)
    return torch.baddbmm(shift[:, :, None].to(x.dtype), matrix.to(x.dtype), flat).clamp_(0, 1).view_as(x)


def _jitter(mean: Tensor, most: tuple[float, float, float, float]) -> Affine:
    """Draws each picture's four changes and their order; mean (B, 3) is its mean colour, which contrast turns on."""
    rows, device = len(mean), mean.device
    draws = torch.rand(4, rows, device=device) * 2 - 1
    factors = [1 + most[i] * draws[i] for i in range(3)]
    luma = torch.tensor(LUMA).to(device, non_blocking=True)
    gray = luma.expand(3, 3)
    eye = torch.eye(3, device=device)
    linear = {
        0: factors[0][:, None, None] * eye,
        2: factors[2][:, None, None] * eye + (1 - factors[2])[:, None, None] * gray,
        3: _turns(draws[3] * most[3] * 2 * math.pi),
    }
    matrix, shift = eye.expand(rows, 3, 3), mean.new_zeros(rows, 3)
    orders = torch.rand(rows, 4, device=device).argsort(dim=1)
    for turn in range(4):
        which = orders[:, turn]
        middle = (torch.einsum("bij,bj->bi", matrix, mean) + shift) @ luma  # (B,) mean brightness by now
        step = factors[1][:, None, None] * eye
        for number, change in linear.items():
            step = torch.where((which == number)[:, None, None], change, step)
        offset = torch.where(which == 1, (1 - factors[1]) * middle, 0.0)
        matrix, shift = step @ matrix, torch.einsum("bij,bj->bi", step, shift) + offset[:, None]
    return matrix, shift


def _turns(angles: Tensor) -> Tensor:
    """Returns matrices (B, 3, 3) that turn the hue by angles (B,), and leave brightness as it is."""
    there, back = torch.stack([torch.tensor(YIQ), torch.tensor(YIQ).inverse()]).to(angles.device, non_blocking=True)
    cos, sin, none = angles.cos(), angles.sin(), torch.zeros_like(angles)
    turn = torch.stack([none + 1, none, none, none, cos, -sin, none, sin, cos], dim=1).view(-1, 3, 3)
    return back @ turn @ there


def blur(x: Tensor, *, share: float, sigma: tuple[float, float] = (0.1, 2.0)) -> Tensor:
    """Blurs a share of pictures or films (B, 3, ..., H, W) with Gaussians of random width, cut at H / 20."""
    x = as_unit(x)
    rows = (torch.rand(len(x)) < share).nonzero()[:, 0].to(x.device, non_blocking=True)  # known without waiting
    if not len(rows):
        return x
    reach = max(1, round(x.shape[-2] / 20))
    widths = torch.empty(len(rows), 1, device=x.device).uniform_(*sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / widths).square())
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(x.dtype)
    picked = x[rows].flatten(1, -3)  # (b, C, H, W)
    kernel = kernel.repeat_interleave(picked.shape[1], dim=0)[:, None]  # (b C, 1, K): each channel on its own
    wide = F.pad(picked.flatten(0, 1)[None], (reach,) * 4, mode="reflect")
    down = F.conv2d(wide, kernel[:, :, :, None], groups=len(kernel))
    across = F.conv2d(down, kernel[:, :, None], groups=len(kernel))
    return x.index_copy(0, rows, across.view(len(rows), *x.shape[1:]))


def solarize(x: Tensor, *, share: float, threshold: float = 0.5) -> Tensor:
    """Inverts what is brighter than the threshold in a share of pictures (B, 3, ...)."""
    x = as_unit(x)
    chosen = (torch.rand(len(x), device=x.device) < share).view(-1, *(1,) * (x.ndim - 1))
    return torch.where(chosen & (x >= threshold), 1 - x, x)
