"""AdamW, fused."""

from __future__ import annotations

from typing import Any

import torch


def optimizer(
    groups: list[dict[str, Any]],
    *,
    lr: float = 5e-4,
    weight_decay: float = 0.2,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-6,
) -> torch.optim.Optimizer:
    """Makes AdamW (Loshchilov & Hutter, ICLR 2019); the defaults are CLIP's for a ViT.

    lr: peak learning rate.
    weight_decay: of matrices; biases, norms and scalars do not decay.
    betas: decays of the averages of the gradient and of its square.
    eps: added to the root of the latter.
    """
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, fused=True)
