"""Losses over the keys of one process, and of two, equal the papers' formulas in value and gradient."""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import log
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.losses.contrast import Contrast, gathered, in_batch
from mmssl.losses.infonce import info_nce, info_nce_both_ways
from mmssl.losses.local_global import local_global
from mmssl.losses.nt_xent import nt_xent
from mmssl.losses.sigmoid import pairwise_sigmoid

sys.path.insert(0, str(Path(__file__).parents[1]))
from side_by_side import side_by_side

Rows = Callable[[Tensor, Tensor, Tensor], Tensor]  # two views (B, 8) and which samples are there (B,) -> losses (B,)


def nll(query: Tensor, key: Tensor, others: list[Tensor], scale: float) -> Tensor:
    """-log of the share of a key among it and others."""
    mine = torch.exp(scale * (query @ key))
    return -torch.log(mine / (mine + sum(torch.exp(scale * (query @ other)) for other in others)))


def several(a: Tensor, b: Tensor, here: Tensor) -> Tensor:
    """SupCon's form: samples that are there, or not, are one class."""
    keys = gathered(b)
    return info_nce(Contrast(a, keys.rows, 3.0, positives=here[:, None] == dist.gather(here)))


def several_plain(a: Tensor, b: Tensor, here: Tensor, i: int) -> Tensor:
    right = [j for j in range(len(b)) if here[j] == here[i]]
    return sum(nll(a[i], b[j], [b[k] for k in range(len(b)) if k != j], 3.0) for j in right) / len(right)


def batch_plain(a: Tensor, b: Tensor, here: Tensor, i: int) -> Tensor:
    return nll(a[i], b[i], [b[j] for j in range(len(b)) if j != i and here[j]], 3.0)


def nt_xent_plain(a: Tensor, b: Tensor, here: Tensor, i: int) -> Tensor:
    others = [x[j] for j in range(len(b)) if j != i and here[j] for x in (a, b)]
    return (nll(a[i], b[i], others, 3.0) + nll(b[i], a[i], others, 3.0)) / 2


def sigmoid_plain(a: Tensor, b: Tensor, here: Tensor, i: int) -> Tensor:
    signs = {j: 1 if i == j else -1 for j in range(len(b)) if here[j]}
    return -sum(torch.log(torch.sigmoid(z * (3 * (a[i] @ b[j]) - 2))) for j, z in signs.items())


def cells_of(b: Tensor, here: Tensor, i: int) -> tuple[Tensor, list[Tensor]]:
    cells = b.view(-1, 2, 4)
    return cells[i], [cell for j in range(len(b)) if j != i and here[j] for cell in cells[j]]


def jsd_plain(a: Tensor, b: Tensor, here: Tensor, i: int) -> Tensor:
    own, others = cells_of(b, here, i)
    pushed = [torch.log(1 + torch.exp(a[i, :4] @ cell)) - log(2) for cell in others]
    return sum(pushed) / len(others) - sum(log(2) - torch.log(1 + torch.exp(-(a[i, :4] @ cell))) for cell in own) / 2


def local_plain(a: Tensor, b: Tensor, here: Tensor, i: int) -> Tensor:
    own, others = cells_of(b, here, i)
    return sum(nll(a[i, :4], cell, others, 1.0) for cell in own) / 2


def both_ways(a: Tensor, b: Tensor, here: Tensor) -> Tensor:
    return sum(info_nce(in_batch(*way, scale=3.0, present=here)) for way in ((a, b), (b, a))) / 2


def sigmoid(a: Tensor, b: Tensor, here: Tensor) -> Tensor:
    return pairwise_sigmoid(in_batch(a, b, scale=3.0, present=here), bias=-2.0)


def second_way(a: Tensor, b: Tensor, here: Tensor) -> Tensor:
    return info_nce_both_ways(in_batch(a, b, scale=3.0, present=here))[1]


LOSSES: dict[str, tuple[Rows, Callable[[Tensor, Tensor, Tensor, int], Tensor]]] = {
    "one way": (lambda a, b, here: info_nce(in_batch(a, b, scale=3.0, present=here)), batch_plain),
    "both ways": (both_ways, lambda a, b, here, i: (batch_plain(a, b, here, i) + batch_plain(b, a, here, i)) / 2),
    "the other way": (second_way, lambda a, b, here, i: batch_plain(b, a, here, i)),
    "both from one product": (
        lambda a, b, here: sum(info_nce_both_ways(in_batch(a, b, scale=3.0, present=here))) / 2,
        lambda a, b, here, i: (batch_plain(a, b, here, i) + batch_plain(b, a, here, i)) / 2,
    ),
    "several positives": (several, several_plain),
    "nt_xent": (lambda a, b, here: nt_xent(a, b, temperature=1 / 3, present=here), nt_xent_plain),
    "sigmoid": (sigmoid, sigmoid_plain),
    "jsd": (lambda a, b, here: local_global(b.view(-1, 2, 4), a[:, :4], present=here), jsd_plain),
    "local infonce": (
        lambda a, b, here: local_global(b.view(-1, 2, 4), a[:, :4], measure="infonce", present=here),
        local_plain,
    ),
}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_the_formula_holds_over_all_processes(name: str, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    views = [F.normalize(torch.randn(6, 8), dim=1).requires_grad_() for _ in range(2)]
    here = torch.tensor([True, True, False, True, False, True])
    counts = torch.ones(6).bool() if name == "several positives" else here
    loss, plain = LOSSES[name]

    def share(rank: int) -> Tensor:
        mine = slice(rank * 6 // processes, (rank + 1) * 6 // processes)
        return loss(*(x[mine] for x in views), here[mine])

    found = torch.cat(side_by_side(share, monkeypatch) if processes == 2 else [share(0)])
    expected = torch.stack([plain(*views, here, i) for i in range(6)])
    torch.testing.assert_close(found[counts], expected[counts])
    assert name == "sigmoid" or not found[~counts].any(), "the sigmoid's method leaves them out itself"
    weights = torch.arange(1.0, 7) * counts
    for mine, theirs in zip(*(torch.autograd.grad(x @ weights, views) for x in (found, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)
