"""Sums of exp over a tile of scores, and their gradients, in one pass each through a GPU's memory, by Triton.

PyTorch takes four passes for a sum and three for a gradient, and a tile that fits no cache is bound by them. Where
Triton is not installed, and on CPUs, `tiles.py` computes the same in PyTorch; only it imports this file.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from mmssl.numerics.missing import MISSING

ONWARD, SUMMED = 32, 128  # rows that a program takes, and columns that it reads at a time


def add_log_sums(x: Tensor, peak: Tensor, total: Tensor, dim: int) -> None:
    """Takes a tile (G, B, N) into the largest scores so far and the sums of exp of the rest, over a dim, in place."""
    groups, length = peak.shape
    kept, summed = (x.stride(1), x.stride(2)) if dim == 2 else (x.stride(2), x.stride(1))
    grid = (triton.cdiv(length, ONWARD), groups)
    strides = peak.stride(0), total.stride(0)
    _sums[grid](x, peak, total, x.stride(0), kept, summed, *strides, length, x.shape[dim], ONWARD, SUMMED)


def slope_of_log_sums(x: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor] | None) -> Tensor:
    """Replaces a tile (G, B, N) by exp(x - peak) * weight, of its rows (G, B) and where given of its columns (G, N)."""
    groups, length, width = x.shape
    peak, weight = rows
    others = columns or rows
    grid = (triton.cdiv(length, ONWARD), triton.cdiv(width, SUMMED), groups)
    strides = tuple(side.stride(0) for side in (*rows, *others))
    given = (x, peak, weight, *others, x.stride(0), *strides, length, width)
    _slope[grid](*given, columns is not None, ONWARD, SUMMED)
    return x


def take(x: Tensor, numbers: Tensor, start: int, into: Tensor | None) -> None:
    """Sets to MISSING the scores of a tile (G, B, N) in the columns numbers (1 or G, B, P), less start, where inside.

    into: (G, B, P), where the scores go before.
    """
    _at_numbers(x, numbers, start, x if into is None else into, reads=True, keeps=into is not None)


def put(x: Tensor, numbers: Tensor, start: int, values: Tensor) -> None:
    """Adds values (G, B, P) to a tile (G, B, N) in the columns numbers (1 or G, B, P), less start, where inside."""
    _at_numbers(x, numbers, start, values, reads=False, keeps=False)


def _at_numbers(x: Tensor, numbers: Tensor, start: int, values: Tensor, *, reads: bool, keeps: bool) -> None:
    groups, rows, width = x.shape
    steps = (0 if len(numbers) == 1 else numbers.stride(0), *numbers.stride()[1:], *values.stride())
    grid = (triton.cdiv(rows, SUMMED), groups)
    _numbered[grid](x, numbers, values, rows, width, start, numbers.shape[2], *steps, MISSING, reads, keeps, SUMMED)


@triton.jit
def _sums(
    x,
    peaks,
    totals,
    group_stride,
    kept_stride,
    summed_stride,
    peak_stride,
    total_stride,
    length,
    count,
    onward: tl.constexpr,
    summed: tl.constexpr,
):
    group = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * onward + tl.arange(0, onward)
    inside = row < length
    x += group * group_stride + row.to(tl.int64)[:, None] * kept_stride
    peak = tl.load(peaks + group * peak_stride + row, mask=inside, other=float("-inf"))
    total = tl.load(totals + group * total_stride + row, mask=inside, other=0.0)
    for start in range(0, count, summed):
        column = start + tl.arange(0, summed)
        here = inside[:, None] & (column < count)[None, :]
        part = tl.load(x + column.to(tl.int64)[None, :] * summed_stride, mask=here, other=float("-inf"))
        top = tl.maximum(peak, tl.max(part, 1))
        base = tl.where(top == float("-inf"), 0.0, top)
        total = total * tl.exp(peak - base) + tl.sum(tl.exp(part - base[:, None]), 1)
        peak = top
    tl.store(peaks + group * peak_stride + row, peak, mask=inside)
    tl.store(totals + group * total_stride + row, total, mask=inside)


@triton.jit
def _slope(
    x,
    row_peaks,
    row_weights,
    column_peaks,
    column_weights,
    group_stride,
    row_peak_stride,
    row_weight_stride,
    column_peak_stride,
    column_weight_stride,
    length,
    width,
    both: tl.constexpr,
    onward: tl.constexpr,
    summed: tl.constexpr,
):
    group = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * onward + tl.arange(0, onward)
    column = tl.program_id(1) * summed + tl.arange(0, summed)
    high, wide = row < length, column < width
    x += group * group_stride + row.to(tl.int64)[:, None] * width + column[None, :]
    here = high[:, None] & wide[None, :]
    part = tl.load(x, mask=here, other=0.0)
    peak = tl.load(row_peaks + group * row_peak_stride + row, mask=high, other=0.0)
    weight = tl.load(row_weights + group * row_weight_stride + row, mask=high, other=0.0)
    out = tl.exp(part - peak[:, None]) * weight[:, None]
    if both:
        peak = tl.load(column_peaks + group * column_peak_stride + column, mask=wide, other=0.0)
        weight = tl.load(column_weights + group * column_weight_stride + column, mask=wide, other=0.0)
        out += tl.exp(part - peak[None, :]) * weight[None, :]
    tl.store(x, out, mask=here)


@triton.jit
def _numbered(
    x,
    numbers,
    values,
    rows,
    width,
    start,
    count,
    number_group,
    number_row,
    number_step,
    value_group,
    value_row,
    value_step,
    missing: tl.constexpr,
    reads: tl.constexpr,
    keeps: tl.constexpr,
    block: tl.constexpr,
):
    group = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * block + tl.arange(0, block)
    inside = row < rows
    x += (group * rows + row.to(tl.int64)) * width
    numbers += group * number_group + row * number_row
    values += group * value_group + row * value_row
    if keeps:  # all are read before any is missing
        for step in range(count):
            column = tl.load(numbers + step * number_step, mask=inside, other=-1) - start
            here = inside & (column >= 0) & (column < width)
            tl.store(values + step * value_step, tl.load(x + column, mask=here), mask=here)
    for step in range(count):
        column = tl.load(numbers + step * number_step, mask=inside, other=-1) - start
        here = inside & (column >= 0) & (column < width)
        if reads:
            tl.store(x + column, tl.full((block,), missing, tl.float32), mask=here)
        else:
            added = tl.load(x + column, mask=here).to(tl.float32) + tl.load(values + step * value_step, mask=here)
            tl.store(x + column, added.to(x.dtype.element_ty), mask=here)
