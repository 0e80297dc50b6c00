"""Sparse convolution by Triton: inputs are gathered while they are multiplied, and never lie side by side in memory.

One kernel makes a layer's outputs, the same its gradient for the inputs, one that for the weights; sums have a fixed
order. Where Triton is not installed, and on CPUs, `sparse.py` computes the same in PyTorch; only it imports this file.
Implicit GEMM as in Chetlur et al., 2014 (cuDNN), over a table of neighbours.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, INPUTS, OUTPUTS = 64, 32, 64  # of a block
PROGRAMS = 512  # that fill a GPU
LEAST = 256  # rows that a part of a sum takes at least


def product(x: Tensor, weight: Tensor, table: Tensor) -> Tensor:
    """Takes rows (N, C) by a kernel (offsets, C, D) to (M, D).

    table: (offsets, M), the row that is read, or N where there is none.
    """
    offsets, rows = table.shape
    inputs, outputs = weight.shape[1:]
    out = x.new_empty(rows, outputs)
    block = _block(outputs)
    if rows:
        grid = (triton.cdiv(rows, ROWS), triton.cdiv(outputs, block))
        sizes = (table.stride(0), rows, len(x), offsets, inputs, outputs)
        _product[grid](x, weight, table, out, *sizes, *weight.stride(), _precision(), ROWS, INPUTS, block)
    return out


def weight_gradient(x: Tensor, grad: Tensor, table: Tensor) -> Tensor:
    """Returns the gradient (offsets, C, D), float32, for the kernel, of inputs (N, C) and outputs' gradient (M, D)."""
    offsets, rows = table.shape
    inputs, outputs = x.shape[1], grad.shape[1]
    block = _block(outputs)
    across = triton.cdiv(outputs, block)
    tiles = offsets * triton.cdiv(inputs, INPUTS) * across
    parts = max(1, min(triton.cdiv(PROGRAMS, tiles), rows // LEAST))
    length = triton.cdiv(triton.cdiv(max(rows, 1), parts), ROWS) * ROWS
    out = torch.empty(parts, offsets, inputs, outputs, dtype=torch.float32, device=x.device)
    grid = (offsets, triton.cdiv(inputs, INPUTS) * across, parts)
    _weight_gradient[grid](
        x,
        grad,
        table,
        out,
        table.stride(0),
        rows,
        len(x),
        length,
        inputs,
        outputs,
        across,
        _precision(),
        ROWS,
        INPUTS,
        block,
    )
    return out[0] if parts == 1 else out.sum(0)


def _block(outputs: int) -> int:
    return min(OUTPUTS, max(16, triton.next_power_of_2(outputs)))


def _precision() -> str:
    """Of products of float32, as torch's own on CUDA are."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


@triton.jit
def _product(
    x,
    weight,
    table,
    out,
    table_stride,
    rows,
    missing,
    offsets,
    inputs,
    outputs,
    offset_stride,
    input_stride,
    output_stride,
    precision: tl.constexpr,
    row_block: tl.constexpr,
    input_block: tl.constexpr,
    output_block: tl.constexpr,
):
    row = tl.program_id(0) * row_block + tl.arange(0, row_block)
    output = tl.program_id(1) * output_block + tl.arange(0, output_block)
    total = tl.zeros((row_block, output_block), dtype=tl.float32)
    for offset in range(offsets):
        source = tl.load(table + offset * table_stride + row, mask=row < rows, other=missing)
        there = source < missing
        if tl.max(there.to(tl.int32), 0) > 0:
            for start in range(0, inputs, input_block):
                channel = start + tl.arange(0, input_block)
                inside = channel < inputs
                taken = tl.load(x + source[:, None] * inputs + channel[None, :], there[:, None] & inside[None, :], 0.0)
                place = offset * offset_stride + channel[:, None] * input_stride + output[None, :] * output_stride
                factor = tl.load(weight + place, inside[:, None] & (output < outputs)[None, :], 0.0)
                total = tl.dot(taken, factor, total, input_precision=precision)
    place = out + row.to(tl.int64)[:, None] * outputs + output[None, :]
    tl.store(place, total.to(out.dtype.element_ty), (row < rows)[:, None] & (output < outputs)[None, :])


@triton.jit
def _weight_gradient(
    x,
    grad,
    table,
    out,
    table_stride,
    rows,
    missing,
    length,
    inputs,
    outputs,
    across,
    precision: tl.constexpr,
    row_block: tl.constexpr,
    input_block: tl.constexpr,
    output_block: tl.constexpr,
):
    offset, tile, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    channel = tile // across * input_block + tl.arange(0, input_block)
    output = tile % across * output_block + tl.arange(0, output_block)
    inside, wanted = channel < inputs, output < outputs
    total = tl.zeros((input_block, output_block), dtype=tl.float32)
    for start in range(part * length, (part + 1) * length, row_block):
        row = start + tl.arange(0, row_block)
        source = tl.load(table + offset * table_stride + row, mask=row < rows, other=missing)
        there = source < missing
        if tl.max(there.to(tl.int32), 0) > 0:
            taken = tl.load(x + source[None, :] * inputs + channel[:, None], there[None, :] & inside[:, None], 0.0)
            place = grad + row.to(tl.int64)[:, None] * outputs + output[None, :]
            pulled = tl.load(place, (row < rows)[:, None] & wanted[None, :], 0.0)
            total = tl.dot(taken, pulled, total, input_precision=precision)
    place = ((part * tl.num_programs(0) + offset).to(tl.int64) * inputs + channel[:, None]) * outputs + output[None, :]
    tl.store(out + place, total, inside[:, None] & wanted[None, :])
