"""Exponential moving averages of weights: teachers, momentum encoders, averaged models."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def ema_update(average: nn.Module, model: nn.Module, *, decay: float) -> None:
    """Moves the average's parameters towards the model's by 1 - decay and copies the buffers."""
    targets: list[Tensor] = list(average.parameters())
    torch._foreach_lerp_(targets, list(model.parameters()), 1.0 - decay)
    buffers: list[Tensor] = list(average.buffers())
    if buffers:
        torch._foreach_copy_(buffers, list(model.buffers()))
