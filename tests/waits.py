"""A device that is pretended on the CPU, and the calls that would make the host wait for a real one.

Its tensors say that they lie on `DEVICE`, hold their values in CPU tensors, and are computed there, so that a step runs
to its end on any machine. Noted is every call for which the host waits for a CUDA device: values that it reads, shapes
that depend on values, and copies that it does not leave to the stream.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

# What a batch holds, or the host alone can do, decides over shapes there.
WAITS = {
    "avts": "second sounds are encoded of those videos alone that have one; the others' would change BatchNorm",
    "depthcontrast": "how many voxels its points fill, and how many pairs of them a kernel joins",
    "directpred": "torch's eigenvalues are looked at for errors on the host",
    "pointcontrast": "how many points match, and how many of them differ",
}
DEVICE = torch.device("meta")  # the only one besides the CPU that needs no driver
CPU = torch.device("cpu")
PACKAGE = str(Path(__file__).parents[1] / "mmssl")
aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten._linalg_check_errors}
SHAPES = {aten.nonzero, aten.masked_select, aten._unique, aten._unique2, aten.unique_dim, aten.unique_consecutive}
SHAPES |= {aten.bincount, aten.histc, aten.multinomial, aten._linalg_eigh, aten._linalg_svd, aten.linalg_lstsq}
LOCKED = (
    "types.py",
    "numerics/constants.py",
    "nn/positions.py",
)  # where what is copied lies in page-locked memory, or is copied once
MAKES = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}


class OnDevice(Tensor):
    """A tensor on the pretended device. values: what it holds, on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> OnDevice:
        shape, strides, start = values.shape, values.stride(), values.storage_offset()
        made: OnDevice = Tensor._make_wrapper_subclass(cls, shape, strides, start, dtype=values.dtype, device=DEVICE)
        made.values = values
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDevice({self.values!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} of the pretended device outside of pretended()")


class _Calls(TorchDispatchMode):
    """Computes on the CPU what the device is asked for, and notes what the host would wait for."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket
        flat, spec = tree_flatten((args, kwargs))
        known = {id(x.values): x for x in flat if isinstance(x, OnDevice)}
        onto = kwargs.get("device") or (DEVICE if known else CPU)
        if _waits(func, args, kwargs, flat, onto):
            self.waits.append(f"{name} at {_line()}")
        inner = [x.values if isinstance(x, OnDevice) else CPU if isinstance(x, torch.device) else x for x in flat]
        args, kwargs = tree_unflatten(inner, spec)
        found = func(*args, **kwargs)
        if onto.type != DEVICE.type or name in READS:
            return found

        def made(x: Any) -> Any:
            return x if not isinstance(x, Tensor) else known[id(x)] if id(x) in known else OnDevice(x)

        return tree_map(made, found)


class _Python(TorchFunctionMode):
    """Does what torch does not do for tensors on DEVICE: makes them of lists and numbers, gives lists and arrays."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.tolist, Tensor.numpy) and isinstance(args[0], OnDevice):
            self.waits.append(f"{func.__name__} at {_line()}")
            return func(args[0].values)
        if func not in MAKES:
            return func(*args, **kwargs)
        onto = torch.device(kwargs.get("device") or (args[0].device if func is Tensor.new_tensor else CPU))
        given = args[func is Tensor.new_tensor]
        if onto.type != DEVICE.type or isinstance(given, Tensor):
            return func(*args, **kwargs)
        made = torch.tensor(given, dtype=kwargs.get("dtype") or (args[0].dtype if func is Tensor.new_tensor else None))
        return made.to(DEVICE)


def _waits(func: Any, args: Any, kwargs: Any, flat: list[Any], onto: torch.device) -> bool:
    """Tells whether the host waits for a CUDA device in a call; AssertionError for a call that CUDA would refuse."""
    name, there = func.overloadpacket, any(isinstance(x, OnDevice) for x in flat)
    if name in (aten._to_copy, aten.copy_):
        source, target = (there, onto.type == DEVICE.type) if name is aten._to_copy else map(_is_there, args[1::-1])
        return source != target and not (target and _line().startswith(LOCKED))
    if not there:
        return False
    if name in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
        filled = len(args) > 2 and args[2].ndim == 0  # which is a masked_fill
        index = [x for x in args[1] if x is not None]
        return any(not _is_there(x) or (x.dtype in (torch.bool, torch.uint8) and not filled) for x in index)
    assert not any(isinstance(x, Tensor) and x.ndim and not _is_there(x) for x in flat), f"{func} of two devices"
    if name is aten.repeat_interleave:
        return kwargs.get("output_size") is None
    return name in READS or name in SHAPES


def _is_there(x: Any) -> bool:
    return isinstance(x, OnDevice)


def _line() -> str:
    """Returns which line of the package makes the call, or a backward pass."""
    frame = sys._getframe()
    while not frame.f_code.co_filename.startswith(PACKAGE):
        if frame.f_back is None:
            return "backward"
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix()}:{frame.f_lineno}"


@contextmanager
def pretended() -> Iterator[list[str]]:
    """Computes on `DEVICE` as on a CUDA device, and yields the list of what the host would have waited for so far."""
    waits: list[str] = []

    def as_cpu(call: Any) -> Any:
        return lambda kind, *args, **options: call("cpu" if kind == DEVICE.type else kind, *args, **options)

    with ExitStack() as patches:
        for name in ("autocast", "is_autocast_enabled", "get_autocast_dtype"):
            patches.enter_context(mock.patch.object(torch, name, as_cpu(getattr(torch, name))))
        fused = "torch.optim.optimizer._get_fused_kernels_supported_devices"
        patches.enter_context(mock.patch(fused, lambda: [DEVICE.type, CPU.type]))
        patches.enter_context(_Python(waits))
        patches.enter_context(_Calls(waits))
        yield waits
