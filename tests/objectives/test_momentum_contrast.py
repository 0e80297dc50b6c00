"""Contrast with a teacher's embeddings in a queue, against plain formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmssl.objectives.momentum_contrast import MomentumContrast
from mmssl.types import Batch, Encoder, Features

OPTIONS: dict[str, Any] = {"embed_dim": 3, "hidden": None, "temperature": 0.4, "queue": 5, "momentum": 0.7}


class Rows(Encoder):
    modality, dim = "row", 4

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Features:
        return Features(self.layer(x))


class Deep(MomentumContrast):
    depth = 2


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(dim=1, keepdim=True).sqrt()


@torch.no_grad()
def shake(module: nn.Module) -> None:
    for weight in module.parameters():
        weight.add_(0.3 * torch.randn_like(weight))


def test_one_view_is_compared_with_the_teachers_of_the_other_and_with_the_queue() -> None:
    torch.manual_seed(0)
    encoder = Rows()
    task = MomentumContrast({"row": encoder}, **OPTIONS, encoder=None)
    shake(task.teacher)
    one, other, present = torch.randn(4, 2), torch.randn(4, 2), torch.tensor([True, False, True, True])
    before = task.queue.rows.clone()
    found = task.contrast({"row": encoder}, Batch({"row": [one, other]}, extra={"row_present": present}))
    (layer,), (slow,) = (head.layers for head in (task.head, task.teacher.head))
    queries = unit(layer(encoder.layer(one)))
    keys = unit(slow(task.teacher.encoder.layer(other)))
    torch.testing.assert_close([found.queries, found.keys, found.own], [queries, before, keys])
    assert found.scale == pytest.approx(1 / 0.4)
    assert found.queries.requires_grad and not found.own.requires_grad
    expected = [0.7 * p + 0.3 * q for p, q in zip(task.teacher.encoder.parameters(), encoder.parameters(), strict=True)]
    task.after_step({"row": encoder}, 0.5)
    for mine, theirs in zip(task.teacher.encoder.parameters(), expected, strict=True):
        torch.testing.assert_close(mine, theirs.detach())
    torch.testing.assert_close(task.queue.rows[:3], keys[present])
    assert torch.equal(task.queue.rows[3:], before[3:]), "only what is present"
    assert task.spaces() == {"row": task.head}


def test_hidden_layers_are_those_that_are_given_or_as_wide_as_the_features() -> None:
    def widths(kind: type[MomentumContrast], hidden: Any) -> list[int]:
        task = kind({"row": Rows()}, **OPTIONS | {"hidden": hidden}, encoder=None)
        return [layer.out_features for layer in task.head.layers if isinstance(layer, nn.Linear)]

    assert widths(Deep, None) == [4, 4, 3] and widths(Deep, [7]) == [7, 3] and widths(MomentumContrast, None) == [3]
