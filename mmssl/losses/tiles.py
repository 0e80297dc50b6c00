"""Sums over the scores of queries and keys, with their gradients, made a tile at a time: never the whole matrix.

Forward and backward each compute the products of a block of queries and a block of keys, use them and drop them: four
products in place of three, but memory grows with B + N and not with B N, and a tile stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mmssl.numerics.kernels import has_kernels
from mmssl.numerics.missing import MISSING

SIDE = {"cpu": 1024, "cuda": 4096}  # of a tile: 4 MB stay in a CPU's cache; a GPU needs work for all of its cores
KEPT = 2**20  # scores, 4 MB, up to which they are kept for the backward: a quarter fewer products, and memory to spare
LARGE = 80.0  # exp of it is finite in float32


class At(NamedTuple):
    """Where a tile lies in (G, B, N)."""

    group: slice
    rows: slice
    columns: slice


@dataclass(frozen=True, eq=False)
class Pairs:
    """What keys are to queries, told of a tile's alone; G is 1 where all groups are alike.

    own: (G, B, P) numbers of keys whose scores are given one by one, and are in no sum.
    exclude: (G, B, 1) numbers of keys that do not count.
    keep: (G, 1 or B, N) bool, keys that count for a query.
    asking: (G, B, 1) bool, queries that count.
    positive: (G, B, N) bool, or the labels (G, B) of queries and (G, N) of keys: of the same label is positive.
    """

    own: Tensor | None = None
    exclude: Tensor | None = None
    keep: Tensor | None = None
    asking: Tensor | None = None
    positive: Tensor | tuple[Tensor, Tensor] | None = None

    def mask(self, x: Tensor, at: At, own: Tensor | None = None) -> Tensor:
        """Sets to MISSING, in place, the scores of a tile that no sum counts; own keys go into own (G, b, P)."""
        if self.keep is not None:
            keep = _part(self.keep, at.group)
            keep = keep[..., at.columns] if keep.shape[1] == 1 else keep[:, at.rows, at.columns]
            x.masked_fill_(~keep, MISSING)
        if self.asking is not None:
            x.masked_fill_(~_part(self.asking, at.group)[:, at.rows], MISSING)
        for numbers, into in ((self.own, own), (self.exclude, None)):
            _take(x, numbers, at, into)
        return x

    def positives(self, x: Tensor, at: At) -> Tensor:
        """Which of a tile's pairs are positive and count."""
        assert self.positive is not None
        if isinstance(self.positive, Tensor):
            right = _part(self.positive, at.group)[:, at.rows, at.columns]
        else:
            queries, keys = (_part(labels, at.group) for labels in self.positive)
            right = queries[:, at.rows, None] == keys[:, None, at.columns]
        return right & (x > MISSING / 2)


def _part(x: Tensor, group: slice) -> Tensor:
    return x if len(x) == 1 else x[group]


def _inside(numbers: Tensor | None, at: At) -> tuple[Tensor, Tensor] | None:
    """Returns where in a tile the keys of these numbers stand, and which of them do; None where none is known to."""
    if numbers is None:
        return None
    width, column = at.columns.stop - at.columns.start, _part(numbers, at.group)[:, at.rows] - at.columns.start
    inside = (column >= 0) & (column < width)
    if inside.is_cpu and not inside.any():  # to ask a GPU would mean to wait for it
        return None
    return column.clamp(0, width - 1), inside


def _take(x: Tensor, numbers: Tensor | None, at: At, into: Tensor | None) -> None:
    """Sets to MISSING the scores of the keys of these numbers (G, b, P), after they went where they are wanted."""
    if numbers is not None and (kernels := _kernels(x)):
        kernels.take(x, _part(numbers, at.group)[:, at.rows], at.columns.start, into)
    elif found := _inside(numbers, at):
        column, inside = found[0].expand(len(x), -1, -1), found[1]
        if into is not None:
            into.copy_(torch.where(inside, x.gather(2, column), into))
        _add_at(x, numbers, at, MISSING)  # a score is less than its rounding


def _add_at(x: Tensor, numbers: Tensor | None, at: At, value: Tensor | float) -> None:
    """Adds to the scores of the keys of these numbers, in place."""
    if isinstance(value, Tensor) and numbers is not None and (kernels := _kernels(x, torch.bfloat16)):
        kernels.put(x, _part(numbers, at.group)[:, at.rows], at.columns.start, value)
    elif found := _inside(numbers, at):
        column, inside = found
        added = torch.where(inside, value, 0.0).to(x.dtype)
        x.scatter_add_(2, column.expand(len(x), -1, -1), added.expand(len(x), -1, -1))


class Sum(Protocol):
    """Sums over tiles of scores, and their gradients; a tile that is given may be overwritten."""

    def add(self, x: Tensor, at: At) -> None:
        """Takes a tile."""

    def totals(self) -> tuple[Tensor, ...]:
        """Returns the sums, after all tiles."""

    def slope(self, x: Tensor, at: At, grads: tuple[Tensor, ...]) -> Tensor:
        """Returns the gradient with respect to a tile."""


def _kernels(x: Tensor, *dtypes: torch.dtype) -> ModuleType | None:
    """Returns the kernels that can take a tile, of float32 or these types, if any can."""
    usable = x.is_contiguous() and has_kernels(x, torch.float32, *dtypes)
    return import_module("mmssl.losses.kernels") if usable else None


class _Running:
    """Logarithms of sums of exp, over tiles, each with the largest score so far taken out."""

    def __init__(self, like: Tensor, *shape: int) -> None:
        self.peak, self.total = like.new_full(shape, -torch.inf), like.new_zeros(shape)

    def add(self, x: Tensor, where: tuple[slice, slice], dim: int) -> None:
        """Takes a tile, to be summed over a dim."""
        peak, total = self.peak[where], self.total[where]
        if kernels := _kernels(x):
            kernels.add_log_sums(x, peak, total, dim)
            return
        top = torch.maximum(peak, x.amax(dim))
        total.mul_(peak.sub_(top).exp_()).add_(torch.sub(x, top.unsqueeze(dim)).exp_().sum(dim))
        peak.copy_(top)

    def slope(self, x: Tensor, where: tuple[slice, slice], dim: int, grad: Tensor) -> Tensor:
        """Returns the gradient with respect to a tile, of that of the logarithms.

        Less the largest score, over the rest of the sum, since the rounding of its logarithm would be in every share.
        """
        peak, weight = (part.unsqueeze(dim) for part in self.share(where, grad))
        return torch.sub(x, peak).exp_().mul_(weight)

    def share(self, where: tuple[slice, slice], grad: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the largest scores, and what exp of the rest is multiplied by."""
        return self.peak[where], grad[where] / self.total[where]

    def log(self) -> Tensor:
        return self.peak + self.total.log()


class LogSums:
    """Logarithm of the sum of exp over each query's keys, and over each key's queries; of positives apart.

    columns: whether each key's sum over queries is asked for.
    """

    def __init__(self, queries: Tensor, keys: Tensor, pairs: Pairs, *, columns: bool = False) -> None:
        (groups, rows, _), count = queries.shape, keys.shape[1]
        like = queries.new_empty(0, dtype=precise(queries))
        self.pairs = pairs
        self.rows, self.columns = _Running(like, groups, rows), _Running(like, groups, count) if columns else None
        self.positive = None if pairs.positive is None else _Running(like, groups, rows)
        self.linear, self.count = like.new_zeros(2, groups, rows)

    def add(self, x: Tensor, at: At) -> None:
        where = at.group, at.rows
        if self.positive is not None:
            right = self.pairs.positives(x, at)
            self.linear[where] += torch.where(right, x, 0.0).sum(2)
            self.count[where] += right.sum(2)
            self.positive.add(x.masked_fill(~right, MISSING), where, 2)
            x.masked_fill_(right, MISSING)
        if self.columns is not None:
            self.columns.add(x, (at.group, at.columns), 1)
        self.rows.add(x, where, 2)

    def totals(self) -> tuple[Tensor, ...]:
        parts = (self.rows, self.columns, self.positive)
        return *(self.linear.new_zeros(0) if part is None else part.log() for part in parts), self.linear

    def slope(self, x: Tensor, at: At, grads: tuple[Tensor, ...]) -> Tensor:
        where = at.group, at.rows
        if self.positive is not None:
            right = self.pairs.positives(x, at)
            pulled = self.positive.slope(x.masked_fill(~right, MISSING), where, 2, grads[2])
            pulled += torch.where(right, grads[3][where].unsqueeze(2), 0.0)
            return pulled.add_(self.rows.slope(x.masked_fill_(right, MISSING), where, 2, grads[0]))
        below = at.group, at.columns
        if kernels := _kernels(x):
            shares = None if self.columns is None else self.columns.share(below, grads[1])
            return kernels.slope_of_log_sums(x, self.rows.share(where, grads[0]), shares)
        pushed = self.rows.slope(x, where, 2, grads[0])
        return pushed if self.columns is None else pushed.add_(self.columns.slope(x, below, 1, grads[1]))


class Softplus:
    """Sum of log(1 + exp(score)) over each query's keys, of the negative score for a positive one."""

    def __init__(self, queries: Tensor, pairs: Pairs) -> None:
        self.sums, self.pairs = queries.new_zeros(queries.shape[:2], dtype=precise(queries)), pairs

    def add(self, x: Tensor, at: At) -> None:
        if self.pairs.positive is not None:
            x = torch.where(self.pairs.positives(x, at), -x, x)
        self.sums[at.group, at.rows] += softplus(x).sum(2)

    def totals(self) -> tuple[Tensor, ...]:
        return (self.sums,)

    def slope(self, x: Tensor, at: At, grads: tuple[Tensor, ...]) -> Tensor:
        right = None if self.pairs.positive is None else self.pairs.positives(x, at)
        x = x.sigmoid_() if right is None else x.sigmoid_().sub_(right.to(x.dtype))
        return x.mul_(grads[0][at.group, at.rows].unsqueeze(2))


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), with x overwritten; on a CPU 3 times faster than torch's, which has no vectorised log1p there.

    With w = 1 + u rounded, log(1 + u) is log(w) + (u - (w - 1)) / w but for a term of second order.
    """
    if not x.is_cpu or x.amax() > LARGE:
        return F.softplus(x)
    u = x.exp_()
    w = u + 1
    rest = u.sub_(w - 1)
    return torch.log(w).addcdiv_(rest, w)


def precise(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _tiles(queries: Tensor, keys: Tensor) -> Iterator[tuple[slice, slice, Iterator[At]]]:
    """Yields groups and rows of queries, each with the tiles of all their keys."""
    side = SIDE.get(queries.device.type, SIDE["cuda"])
    (groups, rows, _), columns = queries.shape, keys.shape[1]
    together = max(1, side**2 // max(1, min(rows, side) * min(columns, side)))
    for group in _slices(groups, together):
        for row in _slices(rows, side):
            yield group, row, (At(group, row, column) for column in _slices(columns, side))


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


class _Product:
    """Products of blocks (G, b, D) and (G, n, D), in float32, or with factors rounded to bfloat16 and float32 sums."""

    def __init__(self, bf16: bool) -> None:
        self.bf16 = bf16

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        if not self.bf16:
            return torch.bmm(a, b)
        a, b = self.factor(a), self.factor(b)
        if a.is_cuda:
            return torch.bmm(a, b, out_dtype=torch.float32)
        return torch.bmm(a.float(), b.float())  # a CPU's bfloat16 products would be rounded to bfloat16 as well

    def factor(self, x: Tensor) -> Tensor:
        """Returns a block as it is multiplied, for one that is used twice."""
        return x.bfloat16() if self.bf16 else x

    def add(self, total: Tensor, a: Tensor, b: Tensor) -> None:
        """Adds a product to a total."""
        if self.bf16:
            total += self(a, b)
        else:
            total.baddbmm_(a, b)


class _Tiled(torch.autograd.Function):
    """Sums over scale q.k + bias of queries (G, B, D) and keys (G, N, D), and the scores (G, B, P) of own keys."""

    @staticmethod
    def forward(
        ctx: Any, how: Sum, pairs: Pairs, bf16: bool, queries: Tensor, keys: Tensor, scale: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.how, ctx.pairs, ctx.product, dtype = how, pairs, _Product(bf16), precise(queries)
        ctx.kept = [] if len(queries) * queries.shape[1] * keys.shape[1] <= KEPT else None
        own = queries.new_zeros(0 if pairs.own is None else (*queries.shape[:2], pairs.own.shape[2]), dtype=dtype)
        with torch.autocast(queries.device.type, enabled=False):
            factors = ctx.product.factor(keys.to(dtype))
            for group, rows, tiles in _tiles(queries, keys):
                q = ctx.product.factor(queries[group, rows].to(dtype) * scale)
                for at in tiles:
                    x = _scores(ctx.product, q, factors[group, at.columns], bias)
                    x = pairs.mask(x, at, own[group, rows] if pairs.own is not None else None)
                    if ctx.kept is not None:
                        ctx.kept.append(x.clone())
                    how.add(x, at)
            totals = how.totals()
        ctx.save_for_backward(queries, keys, scale, bias)
        return *totals, own

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, scale, bias = ctx.saved_tensors
        for_queries, for_keys, for_scale, for_bias = ctx.needs_input_grad[3:]
        how, pairs, product, dtype = ctx.how, ctx.pairs, ctx.product, precise(queries)
        kept = None if ctx.kept is None else iter(ctx.kept)
        to_queries = torch.empty_like(queries) if for_queries else None
        to_keys = keys.new_zeros(keys.shape, dtype=dtype) if for_keys else None
        to_scale, to_bias = torch.zeros(2, dtype=dtype, device=scale.device).unbind()
        with torch.autocast(queries.device.type, enabled=False):
            factors = product.factor(keys.to(dtype))
            for group, rows, tiles in _tiles(queries, keys):
                raw = queries[group, rows].to(dtype)
                q, pulled = product.factor(raw * scale), torch.zeros_like(raw)
                for at in tiles:
                    k = factors[group, at.columns]
                    x = pairs.mask(_scores(product, q, k, bias), at) if kept is None else next(kept).clone()
                    x = how.slope(x, at, grads[:-1])
                    if not for_bias:
                        x = product.factor(x)  # own keys' scores are missing there, so that nothing is lost beside them
                    if pairs.own is not None:
                        _add_at(x, pairs.own, at, grads[-1][group, rows])
                    if for_bias:
                        to_bias += x.sum()
                        x = product.factor(x)
                    if for_queries or for_scale:
                        product.add(pulled, x, k)
                    if to_keys is not None:
                        product.add(to_keys[group, at.columns], x.mT, q)
                if for_scale:
                    to_scale += (raw * pulled).sum()
                if to_queries is not None:
                    to_queries[group, rows] = pulled.mul_(scale)
        numbers = (to_scale.to(scale.dtype) if for_scale else None, to_bias.to(bias.dtype) if for_bias else None)
        return None, None, None, to_queries, None if to_keys is None else to_keys.to(keys.dtype), *numbers


def _scores(product: _Product, queries: Tensor, keys: Tensor, bias: Tensor | None) -> Tensor:
    scores = product(queries, keys.mT)
    return scores if bias is None else scores.add_(bias)


def tiled(
    how: Sum,
    pairs: Pairs,
    queries: Tensor,
    keys: Tensor,
    *,
    scale: Tensor | float,
    bias: Tensor | float | None = None,
    bf16: bool = False,
) -> tuple[Tensor, ...]:
    """Returns the sums of scale q.k + bias of queries (G, B, D) and keys (G, N, D), and own keys' scores (G, B, P).

    In float32, or float64 where the queries are; with exact gradients of queries, keys, scale and bias.

    how: which sums, of these queries and keys.
    bf16: whether factors are rounded to bfloat16, for speed on a GPU; sums stay float32.
    """
    made = (queries.new_full((), x, dtype=precise(queries)) if isinstance(x, int | float) else x for x in (scale, bias))
    return _Tiled.apply(how, pairs, bf16, queries, keys, *made)


@torch.no_grad()
def nearest(queries: Tensor, keys: Tensor) -> Tensor:
    """Returns the number of the key (N, D) that has the highest product with each query (B, D), the first of equals."""
    number = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
    best = queries.new_full((len(queries),), -torch.inf, dtype=torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        for _, rows, tiles in _tiles(queries[None], keys[None]):
            for at in tiles:
                score, place = (queries[rows].float() @ keys[at.columns].float().T).max(1)
                better = score > best[rows]
                best[rows] = torch.where(better, score, best[rows])
                number[rows] = torch.where(better, place + at.columns.start, number[rows])
    return number
