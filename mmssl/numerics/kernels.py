"""Whether Triton's kernels can be used."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

INTERPRETED = False  # whether Triton interprets, so that a CPU can take them as well: for tests


def has_kernels(x: Tensor, *dtypes: torch.dtype) -> bool:
    """Returns whether Triton can take a tensor of one of these types."""
    return (x.is_cuda or INTERPRETED) and x.dtype in dtypes and _installed()


@cache
def _installed() -> bool:
    return find_spec("triton") is not None
