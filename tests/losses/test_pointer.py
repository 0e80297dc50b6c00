"""The pointer's negative log-likelihood against its formula, in value and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmssl.losses import pointer, tiles
from mmssl.losses.pointer import pointed, pointer_nll


def made() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 5, 4), torch.randn(2, 9, 4)
    known = torch.cat([torch.arange(3).expand(2, 3), torch.randint(0, 3, (2, 6))], dim=1)
    return queries, keys, known, torch.randint(0, 3, (2, 5))


def plain(
    queries: torch.Tensor, keys: torch.Tensor, known: torch.Tensor, truth: torch.Tensor, *, scale: torch.Tensor
) -> torch.Tensor:
    """Sample by sample and query by query, with probabilities as the paper writes them."""
    losses = []
    for b in range(len(queries)):
        for i in range(queries.shape[1]):
            attention = torch.exp(scale * keys[b] @ queries[b, i])
            attention = attention / attention.sum()
            mixed = sum(attention[j] * F.one_hot(known[b, j], 3) for j in range(keys.shape[1]))
            losses.append(-torch.log(mixed[truth[b, i]]))
    return torch.stack(losses).view(len(queries), -1)


@pytest.mark.parametrize("side", [1024, 2, 4, 5], ids=str)
def test_equals_the_formula_in_value_and_gradient(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiles.SIDE, "cpu", side)
    monkeypatch.setattr(tiles, "KEPT", 0)
    queries, keys, known, truth = made()
    found = []
    for loss in (pointer_nll, plain):
        leaves = [x.clone().requires_grad_() for x in (queries, keys, torch.tensor(1.5))]
        out = loss(leaves[0], leaves[1], known, truth, scale=leaves[2])
        weights = torch.linspace(1, 2, 10).view(2, 5)
        found.append([out.detach(), *torch.autograd.grad((weights * out).sum(), leaves)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_double_softmax_is_another_loss() -> None:
    """Cross-entropy on the copied probabilities would apply softmax twice: it can never come near 0."""
    queries, keys, known, truth = made()
    sure = 50 * F.normalize(queries, dim=2)
    keys[:, :5], known[:, :5] = F.normalize(queries, dim=2), truth
    nll = pointer_nll(sure, keys, known, truth, scale=1.0)
    mixed = pointed(sure, keys, F.one_hot(known, 3), scale=1.0)
    doubled = F.cross_entropy(mixed.flatten(0, 1), truth.flatten(), reduction="none").view_as(nll)
    floor = torch.log(torch.tensor(1 + 2 / torch.e))
    assert (doubled >= floor - 1e-5).all()
    certain = mixed.gather(2, truth[..., None])[..., 0] > 0.99
    assert certain.any() and (nll[certain] < 0.011).all() and (doubled[certain] > 0.5).all()
    torch.testing.assert_close(nll, -mixed.gather(2, truth[..., None])[..., 0].log(), rtol=1e-4, atol=1e-6)


def test_stays_finite_where_probabilities_underflow_and_where_no_key_has_the_label() -> None:
    queries, keys = torch.tensor([[[1.0, 0.0]]]).requires_grad_(), torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    known = torch.tensor([[0, 1]])
    far = pointer_nll(queries, keys, known, torch.tensor([[1]]), scale=100.0)
    assert far.item() == pytest.approx(200.0)
    far.sum().backward()
    assert queries.grad is not None and queries.grad.abs().sum() > 0
    none = pointer_nll(queries, keys, known, torch.tensor([[2]]), scale=100.0)
    assert none.item() == 0
    (gradient,) = torch.autograd.grad(none.sum(), queries)
    assert not gradient.any()


class Held(TorchDispatchMode):
    """Notes how large each batch of similarities (B, n, 9) is."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.bmm.default and out.shape[2] == 9:
            self.sizes.append(out.numel())
        return out


@pytest.mark.parametrize(
    ("held", "sizes"),
    [(2**25, [90]), (90, [90]), (89, [72, 18]), (36, [36, 36, 18]), (35, [18] * 5), (1, [18] * 5)],
)
def test_no_more_similarities_are_held_than_said(held: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert pointer.HELD == 2**25
    monkeypatch.setattr(pointer, "HELD", held)
    queries, keys, known, _ = made()
    with Held() as noted:
        pointed(queries, keys, F.one_hot(known, 3), scale=1.0)
    assert noted.sizes == sizes


def test_copied_values_equal_the_formula_without_gradient() -> None:
    queries, keys, _, _ = made()
    values = torch.randn(2, 9, 3)
    found = pointed(queries.requires_grad_(), keys, values, scale=1.5)
    attention = torch.exp(1.5 * torch.einsum("bnd,bmd->bnm", queries, keys))
    attention = attention / attention.sum(dim=2, keepdim=True)
    torch.testing.assert_close(found, torch.einsum("bnm,bmc->bnc", attention, values).detach())
    assert not found.requires_grad


def test_pointers_are_worked_out_in_float32() -> None:
    queries, keys, known, truth = made()
    queries, keys = queries.bfloat16(), keys.bfloat16()
    values = F.one_hot(known, 3)
    expected = pointer_nll(queries.float(), keys.float(), known, truth, scale=2.0)
    copied = pointed(queries.float(), keys.float(), values, scale=2.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = pointer_nll(queries, keys, known, truth, scale=2.0), pointed(queries, keys, values, scale=2.0)
    assert found[0].dtype == found[1].dtype == torch.float32
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], copied)
