"""LARS: SGD whose step is scaled layer by layer, for very large batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """Scales each weight's update to trust * |w| / |g + decay w|, then applies momentum.

    Biases and norms take plain SGD steps, as SimCLR and BYOL do, at the share `vectors` of the rate.
    You et al., 2017; found_inf as torch's fused optimizers read it: 1 leaves the weights as they are.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        trust: float,
        vectors: float = 1.0,
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust})
        self.vectors = vectors

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Makes one step."""
        assert closure is None, "LARS evaluates no closure"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)

    def _update(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        update = grad
        if weight.ndim >= 2:
            update = grad + group["weight_decay"] * weight
            sizes, steps = weight.norm(), update.norm()
            trusted = group["trust"] * sizes / steps
            update = update * torch.where((sizes > 0) & (steps > 0), trusted, 1.0)
        momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
        moved = momentum * group["momentum"] + update
        if self.found_inf is not None:
            moved = torch.where(self.found_inf > 0, momentum, moved)
        momentum.copy_(moved)
        factor = 1.0 if self.found_inf is None else 1.0 - self.found_inf
        rate = group["lr"] * (1.0 if weight.ndim >= 2 else self.vectors)
        weight.sub_(rate * factor * momentum)


def optimizer(
    groups: list[dict[str, Any]],
    *,
    lr: float = 4.8,
    weight_decay: float = 1e-6,
    momentum: float = 0.9,
    trust: float = 0.001,
    vectors: float = 1.0,
) -> torch.optim.Optimizer:
    """Makes LARS; the defaults are SimCLR's at a batch of 4096.

    lr: peak learning rate.
    weight_decay: of matrices; biases, norms and scalars do not decay.
    momentum: share of the last step that is kept.
    trust: each layer's step is this share of its weights' norm.
    vectors: rate of biases and norms, as a share of lr.
    """
    return LARS(groups, lr=lr, weight_decay=weight_decay, momentum=momentum, trust=trust, vectors=vectors)
