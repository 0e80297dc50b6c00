"""Which parameters decay, and which keep their rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def param_groups(module: nn.Module, *, steady: Iterable[nn.Parameter] = ()) -> list[dict[str, Any]]:
    """Splits the trainable parameters in two groups: matrices decay; biases, norms and scalars do not.

    steady: those whose rate does not fall over the run; they stand in groups of their own, marked so.
    """
    kept = {id(p) for p in steady}
    groups: list[dict[str, Any]] = []
    for stays in (False, True):
        mine = [p for p in module.parameters() if p.requires_grad and (id(p) in kept) == stays]
        matrices, vectors = [p for p in mine if p.ndim >= 2], [p for p in mine if p.ndim < 2]
        groups += [{"params": matrices, "steady": stays}, {"params": vectors, "weight_decay": 0.0, "steady": stays}]
    return [group for group in groups if group["params"]]
