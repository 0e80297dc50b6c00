"""Sparse convolution in plain PyTorch, the same on CPU and GPU: submanifold, strided and transposed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from mmssl.errors import UserError
from mmssl.nn.voxels import Rulebook, Sites
from mmssl.numerics.kernels import has_kernels

ELEMENTS = 2**28  # of gathered inputs at a time on a GPU

Backend = Literal["auto", "torch", "spconv"]


class SparseConv(nn.Module):
    """A convolution that reads and writes occupied voxels only. Graham et al., CVPR 2018; Choy et al., CVPR 2019.

    stride: 1 keeps the voxels (submanifold), 2 goes to those of twice the size, and transposed back from them. An
    odd kernel is centred, an even one begins at its voxel. weight: (kernel ** 3, inputs, outputs), z fastest.
    """

    shell: Tensor | None  # which matrix each offset takes, of those that share them

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, *, stride: Literal[1, 2] = 1, transposed: bool = False
    ) -> None:
        super().__init__()
        if stride == 1 and (kernel % 2 == 0 or transposed):
            raise UserError(f"a sparse convolution with kernel {kernel} needs stride 2; stride 1 takes odd kernels")
        self.kernel, self.stride, self.transposed, self.spconv = kernel, stride, transposed, False
        self.register_buffer("shell", None, persistent=False)
        self.weight = nn.Parameter(torch.empty(kernel**3, inputs, outputs))
        nn.init.normal_(self.weight, std=(2 / (kernel**3 * outputs)) ** 0.5)  # He et al., ICCV 2015, fan out

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        """Takes features (N, inputs) to (M, outputs). sites: the voxels, with stride 2 those of the finer grid."""
        weight: Tensor = self.weight if self.shell is None else self.weight[self.shell]
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x = x.to(dtype)
        if self.kernel == 1 and self.stride == 1:
            return x @ weight[0].to(x.dtype)
        rules = sites.rules(self.kernel, self.stride, transposed=self.transposed)
        if self.spconv and x.is_cuda:
            return _spconv(x, weight.to(x.dtype), rules)
        if has_kernels(x, torch.float32, torch.bfloat16, torch.float16):
            return _Gathered.apply(x, weight, rules)
        return (_Columns if x.is_cuda else _Pairs).apply(x, weight.to(x.dtype), rules)


def make_isotropic(network: nn.Module) -> None:
    """Has the offsets of each kernel that are equally far from its middle share a matrix, in all sparse convolutions.

    Quarter turns of the grid then change nothing but the order of voxels. weight becomes (distances, inputs, outputs),
    the nearest first.
    """
    for part in network.modules():
        if isinstance(part, SparseConv):
            part.shell = _shells(part.kernel)
            part.weight = nn.Parameter(part.weight[: int(part.shell.max()) + 1].detach().clone())


def _shells(kernel: int) -> Tensor:
    """Returns the number of the distance from the middle, by size, of each offset of a kernel (kernel ** 3,)."""
    away = torch.arange(kernel) * 2 - (kernel - 1)  # in halves of a voxel
    squared = sum(axis.flatten() ** 2 for axis in torch.meshgrid(away, away, away, indexing="ij"))
    return torch.as_tensor(squared).unique(return_inverse=True)[1]


def choose_backend(network: nn.Module, backend: Backend) -> None:
    """Has all sparse convolutions in a network computed by plain PyTorch, or on a GPU by spconv, with the same weights.

    auto: spconv where it is installed. Raises UserError for spconv where it is not.
    """
    installed = find_spec("spconv") is not None
    if backend == "spconv" and not installed:
        raise UserError("the backend spconv is not installed; install the spconv of your CUDA, or choose torch")
    for part in network.modules():
        if isinstance(part, SparseConv):
            part.spconv = backend != "torch" and installed


class _Pairs(torch.autograd.Function):
    """For each step of the rules: gather, multiply, add. Nothing but the input is kept for the backward pass.

    It multiplies only what is there, and in pieces that fit a CPU's cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rules: Rulebook) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rules = rules
        out = _start(x, rules.rows, weight, rules.centre)
        by_input, by_output = _buffers(x, rules, weight)
        kernel = weight.unbind()
        for offset, inputs, outputs in rules.steps:
            taken = torch.index_select(x, 0, inputs, out=by_input[: len(inputs)])
            _add(out, outputs, torch.mm(taken, kernel[offset], out=by_output[: len(inputs)]))
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        rules, grad = ctx.rules, grad.contiguous()
        to_x, to_weight = ctx.needs_input_grad[:2]
        grad_x = _start(grad, len(x), weight.transpose(1, 2), rules.centre) if to_x else None
        grad_weight = torch.zeros_like(weight) if to_weight else None
        if rules.centre is not None and grad_weight is not None:
            torch.mm(x.t(), grad, out=grad_weight[rules.centre])
        by_input, by_output = _buffers(x, rules, weight)
        kernel = weight.transpose(1, 2).unbind()
        for offset, inputs, outputs in rules.steps:
            taken, room = by_output[: len(outputs)], by_input[: len(inputs)]
            torch.index_select(grad, 0, outputs, out=taken)
            if grad_x is not None:
                _add(grad_x, inputs, torch.mm(taken, kernel[offset], out=room))
            if grad_weight is not None:
                grad_weight[offset].addmm_(torch.index_select(x, 0, inputs, out=room).t(), taken)
        return None if grad_x is None else grad_x.to(x.dtype), grad_weight, None


def _start(x: Tensor, rows: int, weight: Tensor, centre: int | None) -> Tensor:
    """Returns what the centre of the kernel makes, or zeros, in float32 at least, as the sum is to be."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if centre is None:
        return x.new_zeros(rows, weight.shape[2], dtype=dtype)
    return (x @ weight[centre]).to(dtype)


def _buffers(x: Tensor, rules: Rulebook, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns room for the inputs and the outputs of the longest step."""
    rows = max((len(inputs) for _, inputs, _ in rules.steps), default=0)
    return x.new_empty(rows, weight.shape[1]), x.new_empty(rows, weight.shape[2])


def _add(total: Tensor, index: Tensor, rows: Tensor) -> None:
    total.index_add_(0, index, rows.to(total.dtype))


class _Gathered(torch.autograd.Function):
    """By Triton's kernels, in the input's type; the gradient for the weights is float32 throughout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rules: Rulebook) -> Tensor:
        kernels, x, cast = _kernels(), x.contiguous(), weight.to(x.dtype)
        ctx.save_for_backward(x, cast)
        ctx.rules, ctx.dtype = rules, weight.dtype
        return kernels.product(x, cast, rules.table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        kernels, (x, weight), rules, grad = _kernels(), ctx.saved_tensors, ctx.rules, grad.contiguous()
        to_x, to_weight = ctx.needs_input_grad[:2]
        grad_x = kernels.product(grad, weight.transpose(1, 2), rules.turned.table) if to_x else None
        grad_weight = kernels.weight_gradient(x, grad, rules.table).to(ctx.dtype) if to_weight else None
        return grad_x, grad_weight, None


def _kernels() -> ModuleType:
    return import_module("mmssl.nn.sparse_kernels")


class _Columns(torch.autograd.Function):
    """Gathers the inputs of each output side by side, zeros where there is none, and multiplies once.

    Few kernels are launched, the host never waits, and no sum depends on the order of threads: for a GPU without
    Triton, and for float64.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rules: Rulebook) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rules = rules
        return _product(x, weight, rules)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        rules: Rulebook = ctx.rules
        to_x, to_weight = ctx.needs_input_grad[:2]
        grad_x = _product(grad, weight.transpose(1, 2), rules.turned) if to_x else None
        grad_weight = None
        if to_weight:
            parts = [columns.t() @ grad[rows] for columns, rows in _columns(x, rules)]
            grad_weight = (parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)).view_as(weight)
        return grad_x, grad_weight, None


def _product(x: Tensor, weight: Tensor, rules: Rulebook) -> Tensor:
    """Takes rows (N, C) by a kernel (offsets, C, D) to (M, D)."""
    kernel = weight.reshape(-1, weight.shape[2])
    parts = [columns @ kernel for columns, _ in _columns(x, rules)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _columns(x: Tensor, rules: Rulebook) -> Iterator[tuple[Tensor, slice]]:
    """Yields the inputs of outputs side by side (M, offsets * C), and which outputs these are, in pieces."""
    size = len(rules.table)
    padded = F.pad(x, (0, 0, 0, 1))
    rows = max(1, ELEMENTS // (size * x.shape[1]))
    for start in range(0, max(rules.rows, 1), rows):
        index = rules.columns[start * size : (start + rows) * size]
        yield padded.index_select(0, index).view(-1, size * x.shape[1]), slice(start, start + rows)


def _spconv(x: Tensor, weight: Tensor, rules: Rulebook) -> Tensor:
    """Lets spconv's kernels gather, multiply and add by the same rules, in float32."""
    if not any(len(inputs) for inputs, _ in rules.pairs):
        return _Columns.apply(x, weight, rules)
    from spconv.core import ConvAlgo
    from spconv.pytorch import functional

    counts = torch.tensor([len(inputs) for inputs, _ in rules.pairs], dtype=torch.int32, device=x.device)
    sides = [pad_sequence([pair[side] for pair in rules.pairs], True, -1) for side in (0, 1)]
    pairs = torch.stack(sides).int()  # (2, offsets, longest), -1 behind
    convolve = functional.indice_conv if rules.centre is None else functional.indice_subm_conv
    kernel = weight.permute(2, 0, 1).float().contiguous()  # (outputs, offsets, inputs)
    with torch.autocast(x.device.type, enabled=False):
        return convolve(x.float(), kernel, pairs, counts, rules.rows, ConvAlgo.Native).to(x.dtype)


class RowNorm(nn.BatchNorm1d):
    """Batch normalisation over the rows (N, C); a single row, which has no variance, is taken as in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < 2:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)
