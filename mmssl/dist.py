"""Several processes as one: rank, world, collectives that differentiate correctly."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from itertools import count
from typing import Any, cast

import torch
import torch.distributed as td
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.peers import Peers, end_with_launcher, of_connection
from mmssl.peers import leave as leave

TIMEOUT = 1800.0  # seconds that processes wait for one of them
LATER = 60  # seconds after which the group's own timeout ends what `Peers` did not


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


_JOINED: list[Peers] = []  # the group's, while there is one
_GROUPS: list[Any] = []  # the group, and where that is on devices another for numbers on the host
_NUMBERS = count()  # of this process's groups, one after the other


@contextmanager
def group(device: str | None = None, *, timeout: float = TIMEOUT) -> Iterator[torch.device]:
    """Joins the group that torchrun describes, if it does, for as long as the context lasts; gives the device.

    An error that ends the context in one process ends the others with its text; see `start`.
    """
    try:
        yield start(device, timeout=timeout)
    except BaseException as error:
        for peers in _JOINED:
            peers.tell(error)
        raise
    finally:
        stop()


def start(device: str | None = None, *, timeout: float = TIMEOUT) -> torch.device:
    """Joins the group that torchrun describes, if it does, and returns this process's device.

    timeout: seconds that the others wait for a process, here and wherever they need it, before all of them end.
    """
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
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_launcher()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not is_on():
        _join("nccl" if chosen.type == "cuda" else "gloo", timeout)
    return chosen


def _join(backend: str, timeout: float) -> None:
    peers = Peers(timeout=timeout, prefix=f"mmssl/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{next(_NUMBERS)}")
    peers.meet()
    _JOINED.append(peers)
    peers.watch(_begun)
    late = timedelta(seconds=timeout + LATER)
    td.init_process_group(backend, store=peers.server, rank=peers.rank, world_size=peers.world, timeout=late)
    _GROUPS.append(td.distributed_c10d._get_default_group())
    if backend != "gloo":
        _GROUPS.append(td.new_group(backend="gloo", timeout=late))


def _begun() -> int:
    """Returns how many collectives this process has begun."""
    return sum(group._get_sequence_number_for_group() for group in _GROUPS)


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic; CPUs without it emulate it, ten times slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def stop() -> None:
    """Leaves the group."""
    while _JOINED:
        _JOINED.pop().close()
    _GROUPS.clear()
    if is_on():
        td.destroy_process_group()


_FAILED: ContextVar[list[str] | None] = ContextVar("failed", default=None)  # what `failing_together` has learnt


@contextmanager
def failing_together() -> Iterator[None]:
    """Lets an error that one process meets inside end the block on all, so that none waits for one that has left it.

    All raise the same UserError, the others where they next need each other, which costs a message each time.
    """
    token = _FAILED.set([])
    try:
        yield
        _meet()
    except Exception as error:
        if world() == 1 or of_connection(error):
            raise
        _meet(str(error) or type(error).__name__)
        raise UserError((_FAILED.get() or [""])[0]) from error
    finally:
        _FAILED.reset(token)


def _meet(error: str = "") -> None:
    """Tells the others inside `failing_together` whether this process failed; UserError where another did."""
    failed = _FAILED.get()
    if failed is None or world() == 1:
        return
    if not failed and start_max(bool(error))():
        texts: list[str] = [""] * world()
        td.all_gather_object(texts, error, group=_GROUPS[-1])
        rank = next(rank for rank, text in enumerate(texts) if text)
        failed.append(texts[0] if len(set(texts)) == 1 else f"rank {rank}: {texts[rank]}")
    if failed and not error:
        raise UserError(failed[0])


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
    _meet()
    return _Gather.apply(x) if world() > 1 else x


def gather(x: Tensor) -> Tensor:
    """Concatenates every process's (B, ...) without gradient; B may differ between processes."""
    if world() == 1:
        return x
    _meet()
    sizes = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(world())]
    td.all_gather(sizes, torch.tensor([x.shape[0]], device=x.device))
    longest = int(max(sizes))
    padded = x.new_zeros(longest, *x.shape[1:])
    padded[: x.shape[0]] = x
    parts = [torch.empty_like(padded) for _ in sizes]
    td.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])


def gather_rows(x: Tensor) -> tuple[Tensor, int]:
    """Concatenates every process's (n, ...), n of any size, with its gradient; and tells where this one's begin."""
    if world() == 1:
        return x, 0
    counts = gather(torch.tensor([len(x)], device=x.device))  # (world,)
    longest = int(counts.max())
    padding = (0, 0) * (x.ndim - 1) + (0, longest - len(x))
    rows = gather_with_grad(F.pad(x, padding)) if x.is_floating_point() else gather(F.pad(x, padding))
    there = torch.arange(longest, device=x.device) < counts[:, None]  # (world, longest)
    return rows[there.flatten()], int(counts[: rank()].sum())


def gather_objects(value: Any) -> list[Any]:
    """Returns every process's plain value, in rank order."""
    if world() == 1:
        return [value]
    _meet()
    values: list[Any] = [None] * world()
    td.all_gather_object(values, value)
    return values


def total(x: Tensor) -> Tensor:
    """Returns the sum over processes, without gradient."""
    x = x.detach().clone()
    if world() > 1:
        _meet()
        td.all_reduce(x)
    return x


def start_max(value: int) -> Callable[[], int]:
    """Begins to find the largest of every process's number, on the host; what it returns waits for it and gives it."""
    if world() == 1:
        return lambda: value
    largest = torch.tensor([value])
    work = td.all_reduce(largest, td.ReduceOp.MAX, group=_GROUPS[-1], async_op=True)

    def wait() -> int:
        work.wait()
        return int(largest)

    return wait


def barrier() -> None:
    """Waits until every process is here."""
    if is_on():
        _meet()
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
