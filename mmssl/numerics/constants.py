"""Fixed numbers on a device, without making the host wait for it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """Returns a float32 tensor of nested tuples on a device, copied there once; shared, so not to be changed."""
    with torch.inference_mode(False):  # or a gradient could not be taken through it later
        return torch.tensor(values, dtype=torch.float32).to(device)


def sent(x: Tensor, device: torch.device) -> Tensor:
    """Returns what lies on the host on a device; a GPU copies it from page-locked memory without a wait."""
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)


def counts(numbers: Tensor, classes: int, weight: Tensor | None = None) -> Tensor:
    """Returns how often each class (K,) is among whole numbers (N,) from 0 to K - 1, those of weight (N,) bool only.

    torch.bincount does not count less, but waits for the device to learn the largest.
    """
    each = torch.ones_like(numbers) if weight is None else weight.to(numbers.dtype)
    return numbers.new_zeros(classes).index_add_(0, numbers, each)
