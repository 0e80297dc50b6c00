"""How far predicted patches lie from the true ones, where they were hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl.losses.pixels import Error, pixel_error


def patch_error(predicted: Tensor, target: Tensor, mask: Tensor, *, error: Error = "l2") -> Tensor:
    """Averages squares (l2) or sizes (l1) of the differences of patches (B, N, P), one loss per sample (B,).

    mask: (B, N) bool, which patches count.
    """
    as_pictures = (x.mT[..., None] for x in (predicted, target))  # (B, P, N, 1)
    return pixel_error(*as_pictures, error=error, weight=mask[:, None, :, None])


def whitened(patches: Tensor) -> Tensor:
    """Takes its own mean from each patch (B, N, P) and divides by its own deviation. He et al., CVPR 2022."""
    with torch.autocast(patches.device.type, enabled=False):
        mean, std = _statistics(patches)
        return (patches - mean) / std


def unwhitened(whitened: Tensor, patches: Tensor) -> Tensor:
    """Gives predicted patches the mean and deviation of the true ones, which `whitened` took from those."""
    mean, std = _statistics(patches)
    return whitened * std + mean


def _statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(patches.float(), dim=-1, keepdim=True)
    return mean, (var + 1e-6).sqrt()
