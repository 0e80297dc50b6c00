"""What `forward` made in all parts of a step, where gradients are accumulated over several."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Accumulated(nn.Module):
    """Keeps rows from each part of a step for `after_step`: keys for a queue, scores for a centre.

    It keeps nothing outside training. A trial step's rows are dropped (`mmssl.parallel.freeze_idle`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[tuple[Tensor, ...]] = []

    def add(self, *rows: Tensor) -> None:
        """Keeps one part's rows (n, ...), of one or several kinds, without gradient."""
        if self.training:
            self.parts.append(tuple(each.detach() for each in rows))

    def take(self) -> list[Tensor]:
        """Returns all parts' rows of each kind, and forgets them; no kind where there was no part."""
        taken = [torch.cat(kind) for kind in zip(*self.parts, strict=True)]
        self.parts = []
        return taken
