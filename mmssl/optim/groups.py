"""Which parameters decay."""

from __future__ import annotations

from typing import Any

from torch import nn


def param_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Splits the trainable parameters in two groups: matrices decay; biases, norms and scalars do not."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trainable if p.ndim >= 2]
    vectors = [p for p in trainable if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
