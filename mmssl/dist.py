"""Several processes as one: rank, world, collectives that differentiate correctly."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, cast

import torch
import torch.distributed as td
from torch import Tensor

from mmssl.errors import UserError


def is_on() -> bool:
    """Whether a process group is initialised and not left aside for the moment."""
    return td.is_available() and td.is_initialized() and not _ALONE.get()


_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Lets code look at this process only, where the others do not run it at the same time."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def rank() -> int:
    """This process's number, 0 when alone."""
    return td.get_rank() if is_on() else 0


def world() -> int:
    """How many processes train together, 1 when alone."""
    return td.get_world_size() if is_on() else 1


def start(device: str | None = None) -> torch.device:
    """Joins the group that torchrun describes, if it does, and returns this process's device."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    on_cuda = torch.cuda.is_available() if device is None else device.startswith("cuda")
    chosen = torch.device(f"cuda:{local}" if on_cuda and device in (None, "cuda") else device or "cpu")
    if chosen.type == "cuda":
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine asks for {chosen}, and it has {torch.cuda.device_count()} CUDA "
                "devices; start at most one process for each, or set train.device=cpu"
            )
        torch.cuda.set_device(chosen)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not is_on():
        td.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return chosen


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic; CPUs without it emulate it, ten times slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def stop() -> None:
    """Leaves the group."""
    if is_on():
        td.destroy_process_group()


def leave(code: int = 0) -> NoReturn:
    """Ends a process of a group whose work is done, at once: what gloo leaves behind now and then aborts one while its
    interpreter is taken down, and torchrun then counts the run as failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums every process's gradient for the local rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        parts = [torch.empty_like(x) for _ in range(world())]
        td.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        if td.get_backend() == "nccl":
            out = grad.new_empty(ctx.rows, *grad.shape[1:])
            td.reduce_scatter_tensor(out, grad)
            return out
        td.all_reduce(grad)
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather_with_grad(x: Tensor) -> Tensor:
    """Concatenates every process's (B, ...) to (world B, ...), in rank order, with the exact gradient.

    With a loss that each process averages over its own rows, and gradients averaged over processes
    as DDP does, parameter gradients equal those of one process with the whole batch.
    """
    return _Gather.apply(x) if world() > 1 else x


def gather(x: Tensor) -> Tensor:
    """Concatenates every process's (B, ...) without gradient; B may differ between processes."""
    if world() == 1:
        return x
    sizes = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(world())]
    td.all_gather(sizes, torch.tensor([x.shape[0]], device=x.device))
    longest = int(max(sizes))
    padded = x.new_zeros(longest, *x.shape[1:])
    padded[: x.shape[0]] = x
    parts = [torch.empty_like(padded) for _ in sizes]
    td.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])


def gather_objects(value: Any) -> list[Any]:
    """Returns every process's plain value, in rank order."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    td.all_gather_object(values, value)
    return values


def total(x: Tensor) -> Tensor:
    """Returns the sum over processes, without gradient."""
    x = x.detach().clone()
    if world() > 1:
        td.all_reduce(x)
    return x


def barrier() -> None:
    """Waits until every process is here."""
    if is_on():
        td.barrier()


_COUNTS: ContextVar[list[Tensor] | None] = ContextVar("counts", default=None)


@contextmanager
def counting() -> Iterator[list[Tensor]]:
    """Collects over how many rows, of all processes, each mean that is taken meanwhile was."""
    token = _COUNTS.set([])
    try:
        yield cast("list[Tensor]", _COUNTS.get())
    finally:
        _COUNTS.reset(token)


def note(rows: Tensor | int, device: torch.device) -> None:
    """Tells `counting` of rows that a loss is averaged over by other means than `mean`."""
    counts = _COUNTS.get()
    if counts is not None:
        counts.append(rows if isinstance(rows, Tensor) else torch.full((), float(rows), device=device))


def mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Averages (B,) over the rows of every process that weigh, each process's share scaled for DDP.

    DDP averages gradients over processes, so the mean over processes of what this returns is the mean
    over all rows. Without any weight anywhere the result is a zero that still carries a gradient; `counting` tells.
    """
    if weight is None:
        note(len(values), values.device)
        return values.mean()
    weight = weight.to(values.dtype)
    count = total(weight.sum())
    note(count, values.device)
    kept = torch.where(weight > 0, values, 0.0)
    return (kept * weight).sum() * world() / count.clamp(min=1.0)
