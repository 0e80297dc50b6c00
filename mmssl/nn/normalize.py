"""Pixel normalisation on the device, from uint8 or floats in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmssl.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """Turns (B, C, ...) uint8, or floats in [0, 1], to (x - mean) / std per channel, in float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(map(math.isfinite, (*mean, *std))) or min(std, default=0) <= 0:
            raise UserError(f"mean is {tuple(mean)} and std {tuple(std)}; expected as many finite numbers, std above 0")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *(1,) * (x.ndim - 2))
        scale = 255.0 if x.dtype == torch.uint8 else 1.0
        mean, std = self.mean.float(), self.std.float()
        x = x if x.dtype == torch.uint8 else x.float()  # bytes become floats within the subtraction
        return (x - (mean * scale).view(shape)).mul_((1 / (std * scale)).view(shape))

    def undo(self, x: Tensor) -> Tensor:
        """Returns what was normalised, as floats."""
        shape = (-1, *(1,) * (x.ndim - 2))
        return x * self.std.view(shape) + self.mean.view(shape)


def pixel_normalize(channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalize:
    """Normalises with ImageNet's statistics by default for colour, and leaves other numbers of channels as they are."""
    colour = channels == 3
    for name, given in (("mean", mean), ("std", std)):
        if given and len(given) != channels:
            raise UserError(f"{name} has {len(given)} numbers; expected one for each of {channels} channels")
    return Normalize(
        mean or (IMAGENET_MEAN if colour else (0.0,) * channels), std or (IMAGENET_STD if colour else (1.0,) * channels)
    )
