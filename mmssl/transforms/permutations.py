"""Orders of a few places that differ as much as possible."""

from __future__ import annotations

from functools import cache
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from mmssl.errors import UserError


@cache
def far_apart(count: int, places: int = 9) -> Tensor:
    """Returns this many orders (count, places) of the places, each drawn to be far from those before, the first sorted.

    Far is by the Hamming distance: each next one has the largest mean distance from all that were drawn, the first of
    several such in sorted order. Noroozi & Favaro, ECCV 2016, who start from a random one.
    """
    every = np.array(list(permutations(range(places))), dtype=np.int8)
    if not 2 <= count <= len(every):
        raise UserError(f"{count} orders of {places} places are wanted; expected 2 to {len(every)}")
    columns = np.ascontiguousarray(every.T)
    same = np.zeros(len(every), dtype=np.int32)  # places that agree with what was drawn, summed over it
    drawn = [0]
    while True:
        agree = np.zeros(len(every), dtype=np.int8)
        for column, place in zip(columns, every[drawn[-1]], strict=True):
            agree += (column == place).view(np.int8)
        same += agree
        same[drawn[-1]] = np.iinfo(np.int32).max // 2
        if len(drawn) == count:
            return torch.from_numpy(every[drawn]).long()
        drawn.append(int(same.argmin()))
