"""Random numbers of each sample's own: the same in whatever batch, on whatever process or device it stands."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
STEP = 0x9E3779B9  # 2^32 over the golden ratio: counters end far apart


def draws(seeds: Tensor, *shape: int) -> Tensor:
    """Returns uniform numbers (B, *shape) between 0 and 1, both excluded, from seeds (B,) of 31 bits.

    Each number is a hash of its seed and its place, so nothing has to be drawn in order.
    """
    places = _mixed(torch.arange(1, prod(shape) + 1, device=seeds.device) * STEP & WORD)
    words = _mixed((_mixed(seeds.long() & WORD)[:, None] + places) & WORD)  # (B, n), 32 bits
    return _unit(words).view(-1, *shape)


def _unit(words: Tensor) -> Tensor:
    """Takes words of 32 bits to (0, 1); of 23 bits, so that half a step more than the last is not rounded to 1."""
    return ((words >> 9).float() + 0.5) / 2**23


def _mixed(x: Tensor) -> Tensor:
    """Scrambles words of 32 bits one to one, with the constants of Wellons' `lowbias32`."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & WORD
    x = (x ^ (x >> 15)) * 0x846CA68B & WORD
    return x ^ (x >> 16)
