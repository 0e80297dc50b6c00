"""The learnable scale of a contrastive loss, and the bias of the sigmoid one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LogitScale(nn.Module):
    """Multiplies similarities by a learnt 1 / temperature, kept between 1 and a ceiling.

    Kept as its logarithm, clamped after each step and never decayed. Radford et al., ICML 2021.
    """

    def __init__(self, *, start: float = 1 / 0.07, ceiling: float = 100.0, learn: bool = True) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(start)), requires_grad=learn)
        self.ceiling = math.log(ceiling)

    def forward(self) -> Tensor:
        """Returns the scale, a scalar."""
        return self.log.exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Brings the scale back into [1, ceiling]; call it after each optimizer step."""
        self.log.clamp_(0.0, self.ceiling)
