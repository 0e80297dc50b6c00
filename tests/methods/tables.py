"""Encoders that look features up, so that a test can write an objective down from plain numbers; and how to compare."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.types import Encoder, Features


class Table(Encoder):
    """Knows each sample by its number, the first of what is shown, and its features are that row of a table.

    grid: of its tokens (rows, N, dim), none by default.
    """

    def __init__(self, modality: str, dim: int = 4, *, rows: int = 24, grid: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.modality, self.dim, self.grid = modality, dim, grid
        self.pooled = nn.Parameter(torch.randn(rows, dim))
        if grid is not None:
            self.tokens = nn.Parameter(torch.randn(rows, int(torch.tensor(grid).prod()), dim))

    def forward(self, x: Tensor) -> Features:
        row = x.flatten(1)[:, 0].long()
        return Features(self.pooled[row], None if self.grid is None else self.tokens[row], self.grid)


def numbers(*values: int) -> Tensor:
    """What a Table is shown of samples with these numbers, (B, 1)."""
    return torch.tensor(values)[:, None].float()


def present(*values: int) -> Tensor:
    """Which samples have a modality, of 1 and 0: (B,) bool."""
    return torch.tensor(values, dtype=torch.bool)


def same(found: Tensor, expected: Tensor, modules: Iterable[nn.Module]) -> None:
    """Two losses have the same value, and the same gradient in every weight of the modules that learns."""
    weights = [p for module in modules for p in module.parameters() if p.requires_grad]
    assert weights
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    pair = [torch.autograd.grad(x, weights, retain_graph=True, materialize_grads=True) for x in (found, expected)]
    for mine, theirs in zip(*pair, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def defaults(kind: type) -> dict[str, Any]:
    """The options of a View or Objective, and what they are by default."""
    options = inspect.signature(kind).parameters.values()
    return {option.name: option.default for option in options if option.kind is option.KEYWORD_ONLY}
