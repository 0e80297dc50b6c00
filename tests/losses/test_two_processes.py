"""Losses over the keys of two processes equal those of one with the whole batch, in value and gradient."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.losses.batch_nce import batch_nce
from mmssl.losses.local_global import local_global
from mmssl.losses.nt_xent import nt_xent

sys.path.insert(0, str(Path(__file__).parents[1]))
from side_by_side import side_by_side

LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "batch_nce": lambda a, b, here: batch_nce(a, b, temperature=0.3, present=here),
    "local_global": lambda a, b, here: local_global(b.view(-1, 2, 4), a[:, :4], present=here),
    "local_global, infonce": lambda a, b, here: local_global(
        b.view(-1, 2, 4), a[:, :4], measure="infonce", present=here
    ),
    "nt_xent": lambda a, b, here: nt_xent(a, b, temperature=0.3, present=here),
}


@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_equal_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    views = [F.normalize(torch.randn(6, 8), dim=1).requires_grad_() for _ in range(2)]
    here = torch.tensor([True, True, False, True, False, True])
    expected = LOSSES[name](*views, here)
    halves = [slice(0, 3), slice(3, 6)]
    found = torch.cat(
        side_by_side(lambda rank: LOSSES[name](*(x[halves[rank]] for x in views), here[halves[rank]]), monkeypatch)
    )
    torch.testing.assert_close(found, expected)
    weights = torch.arange(1.0, 7)
    for mine, theirs in zip(*(torch.autograd.grad(x @ weights, views) for x in (found, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)
