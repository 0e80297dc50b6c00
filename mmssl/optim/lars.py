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
            trained = [weight for weight in group["params"] if weight.grad is not None]
            for matrices in (True, False):
                weights = [weight for weight in trained if (weight.ndim >= 2) == matrices]
                if weights:
                    self._update(weights, group, matrices=matrices)

    def _update(self, weights: list[Tensor], group: dict[str, Any], *, matrices: bool) -> None:
        """Moves weights of one kind, by calls for all of them where there is one."""
        bad, memory = self.found_inf, group["momentum"]
        keep: Tensor | float = 1.0
        updates = [weight.grad for weight in weights if weight.grad is not None]
        if bad is not None:
            updates = [torch.where(bad > 0, 0.0, update) for update in updates]
            keep, memory = 1.0 - bad, torch.where(bad > 0, 1.0, memory)
        if matrices:
            updates = list(torch._foreach_add(updates, weights, alpha=group["weight_decay"]))
            sizes, steps = (torch.stack(torch._foreach_norm(each)) for each in (weights, updates))
            ratios = keep * torch.where((sizes > 0) & (steps > 0), group["trust"] * sizes / steps, 1.0)
            updates = list(torch._foreach_mul(updates, list(ratios.unbind())))
        momenta = [self.state[weight].setdefault("momentum", torch.zeros_like(weight)) for weight in weights]
        torch._foreach_mul_(momenta, memory)
        torch._foreach_add_(momenta, updates)
        moves = momenta if bad is None else torch._foreach_mul(momenta, keep)
        torch._foreach_add_(weights, moves, alpha=-group["lr"] * (1.0 if matrices else self.vectors))


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
