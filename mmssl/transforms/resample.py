"""Parts of a batch of images, each cut, mirrored and scaled by a map of its own, on the device, with antialiasing."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl.transforms.image import Interpolation


def resampled(x: Tensor, place: Tensor, size: int, *, interpolation: Interpolation, within: bool) -> Tensor:
    """Returns the parts uint8 (B, C, size, size) of images uint8 (B, C, H, W) that maps without a turn show.

    Each pixel is a weighted mean over as much of the image as it shows, as Pillow and torchvision scale with
    antialiasing; two products of matrices, one down and one across.
    place: (B, 2, 3), from x and y in 0 to 1 to pixels; a negative width mirrors.
    within: whether the part is cut first, so that no pixel beyond its edges counts.
    """
    across, down = (
        weights(place[:, axis, axis], place[:, axis, 2], cells, size, interpolation=interpolation, within=within)
        for axis, cells in enumerate((x.shape[3], x.shape[2]))
    )
    with torch.autocast(x.device.type, enabled=False):  # bfloat16 would round colours
        made = down[:, None] @ x.float() @ across.mT[:, None]  # (B, C, size, size)
    return made.round().clamp(0, 255).to(torch.uint8)


def weights(
    slope: Tensor, start: Tensor, cells: int, size: int, *, interpolation: Interpolation, within: bool
) -> Tensor:
    """Returns how much each of `cells` pixels of a line counts in each of `size` pixels of a part: (B, size, cells).

    slope, start: (B,), of the map from 0 to 1 along the part to pixels of the line.
    """
    slope, start = slope[:, None, None], start[:, None, None]
    shown = torch.arange(size, device=slope.device)[:, None] + 0.5
    there = torch.arange(cells, device=slope.device) + 0.5
    centre = start + slope * shown / size  # (B, size, 1)
    if interpolation == "nearest":
        return (there.floor() == centre.floor().clamp(0, cells - 1)).float()
    away = (there - centre).abs() / (slope.abs() / size).clamp(min=1)
    found = KERNELS[interpolation](away)
    if within:
        ends = start, start + slope
        found = found.where((there > torch.minimum(*ends)) & (there < torch.maximum(*ends)), 0.0)
    return found / found.sum(dim=2, keepdim=True)


def _triangle(x: Tensor) -> Tensor:
    return (1 - x).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic with a = -0.5, as Pillow has it, and torch with antialiasing. IEEE ASSP 1981."""
    near = (1.5 * x - 2.5) * x.square() + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)


KERNELS = {"bilinear": _triangle, "bicubic": _cubic, "lanczos": _lanczos}
