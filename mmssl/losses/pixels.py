"""How far a drawn image lies from the true one, pixel by pixel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Error = Literal["l1", "l2"]


def pixel_error(drawn: Tensor, truth: Tensor, *, error: Error = "l2", weight: Tensor | None = None) -> Tensor:
    """Averages squares (l2) or sizes (l1) of the differences of images (B, C, H, W), one loss per sample (B,).

    weight: (B, 1, H, W), what each pixel counts; a sample without any weight has the loss 0. In float32.
    """
    with torch.autocast(drawn.device.type, enabled=False):
        apart = drawn.float() - truth.float()
        each = (apart.square() if error == "l2" else apart.abs()).mean(dim=1, keepdim=True)  # (B, 1, H, W)
        if weight is None:
            return each.mean((1, 2, 3))
        return (each * weight).sum((1, 2, 3)) / weight.float().sum((1, 2, 3)).clamp(min=1e-6)
