"""Whether Triton's kernels can be used."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


def has_kernels(x: Tensor, *dtypes: torch.dtype) -> bool:
    """Returns whether Triton can take a tensor of one of these types; on a CPU only in its interpreter."""
    return (x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1") and x.dtype in dtypes and _installed()


@cache
def _installed() -> bool:
    return find_spec("triton") is not None
