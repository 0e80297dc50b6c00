"""Encoders that look features up, so that a test can write an objective down from plain numbers; and how to compare."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.types import Encoder, Features, Loss


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


def films(*rows: list[int]) -> Tensor:
    """Videos whose every frame is a number that a Table knows: (B, 3, T, 1, 1)."""
    return torch.tensor(rows).float()[:, None, :, None, None].expand(-1, 3, -1, -1, -1)


def quarters(encoder: Table, row: int) -> Tensor:
    """The cells of an image on a grid (1, 4, 4), averaged to 2 x 2, side by side in each channel: (4 dim,)."""
    cells = encoder.tokens[row].view(4, 4, -1)
    corners = [cells[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((0, 1)) for i in (0, 1) for j in (0, 1)]
    return torch.stack(corners, dim=1).flatten()


def answered(found: Loss, scores: Tensor, target: Tensor, have: Tensor, modules: Iterable[nn.Module]) -> None:
    """A task of classes costs the cross-entropy of scores (B, classes) of what is there, and says its answers."""
    same(found.total, torch.stack([-scores[i].log_softmax(0)[target[i]] for i in have.nonzero()[:, 0]]).mean(), modules)
    said = scores.argmax(dim=1)
    right = (said == target).float()
    assert found.answers["said"][have].tolist() == said[have].tolist()
    assert found.answers["correct"][have].tolist() == right[have].tolist()
    assert found.answers["said"][~have].isnan().all() and found.answers["correct"][~have].isnan().all()
    torch.testing.assert_close(found.logs["accuracy"], right[have].mean())
    torch.testing.assert_close(found.logs["chance_loss"], torch.tensor(scores.shape[1]).log())
    assert found.embeddings == {} and not found.logs["accuracy"].requires_grad


def lasting(task: Any, **steps: int | list[int]) -> Any:
    """Has the options of a task about order last so many steps, by name; a list's are taken one after the other."""
    left = {name: iter(found) if isinstance(found, list) else cycle([found]) for name, found in steps.items()}
    task.steps = lambda seconds: next(left[next(name for name in left if getattr(task, name) is seconds)])
    return task
