"""Sums made a tile at a time equal dense ones in value and gradient, for every kind of pairs, and hold no matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmssl.losses import tiles
from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce, info_nce_both_ways
from mmssl.losses.local_global import local_global
from mmssl.losses.nce import nce
from mmssl.losses.nt_xent import nt_xent
from mmssl.losses.pointer import pointer_nll
from mmssl.losses.sigmoid import pairwise_sigmoid
from mmssl.losses.tiles import nearest, softplus

B, N, D = 7, 11, 5
KEEP = torch.tensor([True, False, True, True, True, False, True, True, True, True, False])
ROWS = (torch.arange(B * N).view(B, N) * 7 % 5 > 1) | (torch.arange(N) == 3)  # differs by query, never all False
PLACES = torch.tensor([3, 3, 0, 10, 7, 6, 2])
SEVERAL = torch.arange(B * N).view(B, N) * 5 % 7 == 1
SEVERAL[2] = False  # a query without any positive
LABELS = torch.arange(B) % 4, torch.arange(N) % 3  # queries of label 3 have no positive key
TWO = torch.stack([PLACES, (PLACES + 4) % N], dim=1)


def logits(q: Tensor, k: Tensor, scale: Tensor, counts: Tensor | None = None) -> Tensor:
    x = scale * q @ k.mT
    return x if counts is None else x.masked_fill(~counts, -torch.inf)


def several_dense(x: Tensor, right: Tensor) -> Tensor:
    log_p = x.log_softmax(dim=-1).masked_fill(~right, 0.0)
    return -log_p.sum(dim=-1) / right.sum(dim=-1).clamp(min=1)


def one_each(x: Tensor) -> Tensor:
    return F.cross_entropy(x, PLACES, reduction="none")


def own_dense(x: Tensor, own: Tensor) -> Tensor:
    """Each own score against the other keys' alone."""
    others = x.logsumexp(dim=1, keepdim=True)
    return (torch.logaddexp(own, others) - own).mean(dim=1)


def sigmoid_dense(x: Tensor, right: Tensor) -> Tensor:
    return -torch.where(right, F.logsigmoid(x), F.logsigmoid(-x)).masked_fill(x.isinf(), 0.0).sum(dim=-1)


def hot(places: Tensor) -> Tensor:
    return F.one_hot(places, N).bool() if places.ndim == 1 else F.one_hot(places, N).bool().any(dim=1)


def pointer_dense(q: Tensor, k: Tensor, s: Tensor) -> Tensor:
    log_p, right = logits(q, k, s).log_softmax(dim=2), LABELS[0][:, None] == LABELS[1]
    found = log_p.masked_fill(~right, -1e9).logsumexp(dim=2)
    return torch.where(right.any(dim=1), -found, 0.0)


def nt_xent_dense(views: Tensor) -> Tensor:
    others = (views @ views.T / 0.5).masked_fill(torch.eye(2 * B).bool(), -torch.inf)
    return F.cross_entropy(others, torch.arange(2 * B).roll(B), reduction="none").view(2, -1).mean(0)


def batched(x: Tensor) -> Tensor:
    return torch.stack([x, x.flip(0) * 0.5, -x])


def mixed(x: Tensor) -> Tensor:
    """Not contiguous."""
    return torch.stack([x, x], dim=2)[:, :, 0]


Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # queries, keys, scale, bias
VARIANTS: dict[str, tuple[Loss, Loss]] = {
    "one positive": (
        lambda q, k, s, b: info_nce(Contrast(q, k, s, PLACES)),
        lambda q, k, s, b: one_each(logits(q, k, s)),
    ),
    "not contiguous": (
        lambda q, k, s, b: info_nce(Contrast(mixed(q), mixed(k), s, PLACES)),
        lambda q, k, s, b: one_each(logits(q, k, s)),
    ),
    "keep": (
        lambda q, k, s, b: info_nce(Contrast(q, k, s, PLACES, keep=KEEP)),
        lambda q, k, s, b: torch.where(KEEP[PLACES], own_dense(
            logits(q, k, s, KEEP & ~hot(PLACES)), logits(q, k, s).gather(1, PLACES[:, None])), 0.0),
    ),
    "keep by query": (
        lambda q, k, s, b: info_nce(Contrast(q, k, s, PLACES, keep=ROWS)),
        lambda q, k, s, b: torch.where((ROWS & hot(PLACES)).any(1), own_dense(
            logits(q, k, s, ROWS & ~hot(PLACES)), logits(q, k, s).gather(1, PLACES[:, None])), 0.0),
    ),
    "exclude": (
        lambda q, k, s, b: info_nce(Contrast(q, k, s, PLACES, exclude=(PLACES + 2) % N)),
        lambda q, k, s, b: one_each(logits(q, k, s, ~hot((PLACES + 2) % N))),
    ),
    "several": (
        lambda q, k, s, b: info_nce(Contrast(q, k, s, positives=SEVERAL)),
        lambda q, k, s, b: several_dense(logits(q, k, s), SEVERAL),
    ),
    "labels": (
        lambda q, k, s, b: info_nce(Contrast(q, k, s, labels=LABELS)),
        lambda q, k, s, b: several_dense(logits(q, k, s), LABELS[0][:, None] == LABELS[1]),
    ),
    "batched": (
        lambda q, k, s, b: info_nce(Contrast(batched(q), batched(k), s, labels=tuple(x.expand(3, -1) for x in LABELS))),
        lambda q, k, s, b: several_dense(logits(batched(q), batched(k), s), LABELS[0][:, None] == LABELS[1]),
    ),
    "pointer": (
        lambda q, k, s, b: pointer_nll(
            batched(q), batched(k), LABELS[1].expand(3, -1), LABELS[0].expand(3, -1), scale=s
        ),
        lambda q, k, s, b: pointer_dense(batched(q), batched(k), s),
    ),
    "own by number": (
        lambda q, k, s, b: info_nce(Contrast(q, k, s, own=TWO)),
        lambda q, k, s, b: own_dense(logits(q, k, s, ~hot(TWO)), logits(q, k, s).gather(1, TWO)),
    ),
    "queue": (
        lambda q, k, s, b: info_nce(Contrast(q, k[B:].detach(), s, own=k[:B])),
        lambda q, k, s, b: own_dense(logits(q, k[B:].detach(), s), s * (q * k[:B]).sum(1, keepdim=True)),
    ),
    "both ways": (
        lambda q, k, s, b: torch.cat(info_nce_both_ways(Contrast(q, k[:B], s, keep=KEEP[:B]))),
        lambda q, k, s, b: torch.cat([
            torch.where(KEEP[:B], own_dense(x.masked_fill(~KEEP[:B] | torch.eye(B).bool(), -torch.inf),
                                            x.diagonal()[:, None]), 0.0)
            for x in (logits(q, k[:B], s), logits(k[:B], q, s))
        ]),
    ),
    "nt_xent": (
        lambda q, k, s, b: nt_xent(q * s, k[:B], temperature=0.5),
        lambda q, k, s, b: nt_xent_dense(torch.cat([q * s, k[:B]])),
    ),
    "sigmoid": (
        lambda q, k, s, b: pairwise_sigmoid(Contrast(q, k, s, PLACES), bias=b),
        lambda q, k, s, b: sigmoid_dense(logits(q, k, s) + b, hot(PLACES)),
    ),
    "sigmoid, keep": (
        lambda q, k, s, b: pairwise_sigmoid(Contrast(q, k, s, PLACES, keep=KEEP), bias=b),
        lambda q, k, s, b: sigmoid_dense(logits(q, k, s, KEEP.expand(B, N)) + b, hot(PLACES)),
    ),
    "sigmoid, several": (
        lambda q, k, s, b: pairwise_sigmoid(Contrast(q, k, s, SEVERAL, keep=ROWS), bias=b),
        lambda q, k, s, b: sigmoid_dense(logits(q, k, s, ROWS) + b, SEVERAL),
    ),
    "nce": (
        lambda q, k, s, b: nce(Contrast(q, k[B:], s, own=k[:B]), b, 20),
        lambda q, k, s, b: -F.logsigmoid(s * (q * k[:B]).sum(1) - b - math.log(4 / 20))
        - F.logsigmoid(b + math.log(4 / 20) - logits(q, k[B:], s)).sum(1),
    ),
}  # fmt: skip
SINGLE = {"nt_xent"}  # it gathers rows in float32


def leaves(dtype: torch.dtype, scale: float = 3.0) -> list[Tensor]:
    torch.manual_seed(0)
    made = [F.normalize(torch.randn(rows, D, dtype=torch.double), dim=1) for rows in (B, N)]
    made += [torch.tensor(scale).double(), torch.tensor(-1.25).double()]
    return [x.to(dtype).requires_grad_() for x in made]


def graded(loss: Loss, given: list[Tensor]) -> list[Tensor]:
    value = loss(*given)
    weights = torch.linspace(-0.5, 2, value.numel(), dtype=value.dtype).view_as(value)
    grads = torch.autograd.grad((weights * value).sum(), given, allow_unused=True)
    return [value.detach(), *(torch.zeros_like(x) if g is None else g for x, g in zip(given, grads, strict=True))]


@pytest.mark.parametrize(("side", "kept"), [(3, 0), (4, 2**20), (1024, 2**20)])
@pytest.mark.parametrize("name", VARIANTS)
def test_values_and_gradients_equal_dense_ones(
    name: str, side: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiles.SIDE, "cpu", side)
    monkeypatch.setattr(tiles, "KEPT", kept)
    tiled, dense = VARIANTS[name]
    for scale in (3.0, 30.0):
        expected = graded(dense, leaves(torch.double, scale))
        for dtype, error in ((torch.double, 1e-8), (torch.float32, 2e-6)):
            if dtype == torch.double and name in SINGLE:
                continue
            for mine, theirs in zip(graded(tiled, leaves(dtype, scale)), expected, strict=True):
                assert mine.dtype == dtype
                top = max(1.0, float(theirs.abs().max()))  # sums of terms of either sign have their terms' error
                torch.testing.assert_close(mine.double(), theirs, rtol=error, atol=error * top)


@pytest.mark.parametrize("name", sorted(VARIANTS.keys() - SINGLE))
def test_gradients_equal_finite_differences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiles.SIDE, "cpu", 8)
    monkeypatch.setattr(tiles, "KEPT", 0)
    given = leaves(torch.double)
    if name == "queue":  # its keys are the remembered ones, without a gradient
        own = given[1].detach()[:B].clone().requires_grad_()
        rest = given[1].detach()[B:]
        assert torch.autograd.gradcheck(
            lambda q, k, s: info_nce(Contrast(q, rest, s, own=k)), (given[0], own, given[2])
        )
    else:
        assert torch.autograd.gradcheck(VARIANTS[name][0], given)


@pytest.mark.parametrize("kept", [0, 2**20])
def test_nothing_that_counts_is_zero_without_gradient_and_a_graph_serves_twice(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "KEPT", kept)
    q, k, s, b = given = leaves(torch.float32)
    none = torch.zeros(N, dtype=torch.bool)
    for losses in (
        info_nce(Contrast(q, k, s, keep=none)),
        info_nce(Contrast(q, k, s, SEVERAL, keep=none)),
        torch.cat(info_nce_both_ways(Contrast(q, k[:B], s, keep=none[:B]))),
        torch.cat(info_nce_both_ways(Contrast(q[:1], k[:1], s, keep=none[:1]))),
        pairwise_sigmoid(Contrast(q, k, s, keep=none), bias=b),
        pairwise_sigmoid(Contrast(q, k, s, SEVERAL, keep=none), bias=b),
        local_global(k[:10].view(5, 2, D), q[:5] * s, present=none[:5]),
    ):
        assert not losses.any()
        first = torch.autograd.grad(losses.sum(), given, allow_unused=True, retain_graph=True)
        assert not any(g is not None and g.any() for g in first)
    losses = info_nce(Contrast(q, k, s, PLACES)).sum()
    twice = [torch.autograd.grad(losses, given[:3], retain_graph=True) for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*twice, strict=True))


class Largest(TorchDispatchMode):
    """Notes the most elements that any tensor which is made has."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out


@pytest.mark.parametrize("name", ["info_nce", "both ways", "sigmoid", "labels", "nt_xent", "queue", "nce", "nearest"])
def test_no_matrix_of_all_scores_is_ever_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiles.SIDE, "cpu", 12)
    monkeypatch.setattr(tiles, "KEPT", 0)
    rows, (q, k) = 80, torch.randn(2, 80, 3, requires_grad=True).unbind()
    labels = torch.arange(rows) % 7
    losses: dict[str, Callable[[], Tensor]] = {
        "info_nce": lambda: info_nce(Contrast(q, k, keep=labels > 2)),
        "both ways": lambda: sum(info_nce_both_ways(Contrast(q, k, keep=labels > 2)), start=torch.zeros(())),
        "sigmoid": lambda: pairwise_sigmoid(Contrast(q, k), bias=-1.0),
        "labels": lambda: info_nce(Contrast(q, k, labels=(labels, labels))),
        "nt_xent": lambda: nt_xent(q, k, temperature=1.0, present=labels > 2),
        "queue": lambda: info_nce(Contrast(q, k.detach(), own=k)),
        "nce": lambda: nce(Contrast(q, k, own=q), 1.0, rows),
        "nearest": lambda: nearest(q, k) + 0 * q[:, 0],
    }
    with Largest() as noted:
        losses[name]().sum().backward()
    assert noted.elements <= 6 * rows, "no more than the inputs have; a matrix has 6,400"


def test_tiles_of_small_problems_are_kept_and_their_products_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = torch.bmm

    def counted(a: Tensor, b: Tensor) -> Tensor:
        made.append(a.shape[1])
        return real(a, b)

    monkeypatch.setattr(torch, "bmm", counted)
    for kept, products in ((2 * B * N, 1), (B * N, 1), (B * N - 1, 2)):
        monkeypatch.setattr(tiles, "KEPT", kept)
        made.clear()
        q, k, _, _ = leaves(torch.float32)
        info_nce(Contrast(q, k, positives=PLACES)).sum().backward()
        assert len(made) == products


def test_softplus_is_exact_over_all_scores() -> None:
    x = torch.cat([torch.linspace(-100, 79, 4001), torch.tensor([-1e30, -17.0, -1e-6, 0.0, 1e-6])])
    for values in (x, torch.cat([x, torch.tensor([80.5, 95.0, 300.0])])):
        expected = torch.logaddexp(values.double(), torch.zeros((), dtype=torch.double))
        torch.testing.assert_close(softplus(values.clone()).double(), expected, rtol=3e-7, atol=1e-37)


def test_bf16_rounds_what_is_multiplied_and_sums_in_float32() -> None:
    q, k, s, b = leaves(torch.float32, 20.0)
    exact = [x.detach().bfloat16().double() for x in (q * s, k)]
    expected = F.cross_entropy(exact[0] @ exact[1].T, PLACES, reduction="none").float()
    found = info_nce(Contrast(q, k, s, PLACES, bf16=True))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, info_nce(Contrast(q, k, s, PLACES)), rtol=1e-4, atol=1e-5)
    for loss in (lambda bf16: info_nce(Contrast(q, k, s, PLACES, bf16=bf16)),
                 lambda bf16: pairwise_sigmoid(Contrast(q, k, s, PLACES, bf16=bf16), bias=b)):  # fmt: skip
        grads = [torch.autograd.grad(loss(bf16).sum(), (q, k, s)) for bf16 in (True, False)]
        for rough, fine in zip(*grads, strict=True):
            assert rough.dtype == torch.float32 and not torch.equal(rough, fine)
            torch.testing.assert_close(rough, fine, rtol=0.05, atol=0.02 * float(fine.abs().max()))


@pytest.mark.parametrize("side", [2, 1024])
def test_the_nearest_key_is_the_first_of_equals(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiles.SIDE, "cpu", side)
    keys = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 2.0], [-5.0, -5.0]])
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    with torch.autocast("cpu", torch.bfloat16):
        assert nearest(queries, keys).tolist() == [0, 1, 4]
