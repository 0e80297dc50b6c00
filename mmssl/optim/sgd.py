"""Stochastic gradient descent with momentum, fused."""

from __future__ import annotations

from typing import Any

import torch


def optimizer(
    groups: list[dict[str, Any]],
    *,
    lr: float = 0.03,
    weight_decay: float = 1e-4,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Makes SGD; the defaults are MoCo's at a batch of 256.

    lr: peak learning rate.
    weight_decay: of matrices; biases, norms and scalars do not decay.
    momentum: share of the last step that is kept.
    nesterov: whether the gradient is that ahead of the momentum's step.
    """
    made = torch.optim.SGD(groups, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, fused=True)
    for weight in (weight for group in made.param_groups for weight in group["params"] if momentum):
        # where the first step is skipped, torch would leave in it whatever the memory held
        made.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return made
