"""Networks that a config names, built within limits: the weights on disk say how large one may become."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map_only

from mmssl.errors import UserError
from mmssl.limits import limit, refuse

BYTES = 4  # that building may ask for, for each byte on disk: weights in bfloat16 become float32, and are copied
PARTS = 20  # tensors that building may make for each on disk; of our encoders none makes 5
# What neither makes a tensor nor changes its size; what ends in one underscore works in place.
FREE = {
    *("__get__", "__set__", "__setitem__", "dim", "size", "is_floating_point", "item"),
    *("_set_grad_enabled", "_has_compatible_shallow_copy_type"),
}
DRAWS = {"uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_"}
WIDEST = 8  # bytes of an element
# What returns as much as it is given, what is as large as its operands together, and what joins them.
SAME = {
    *("view", "view_as", "reshape", "reshape_as", "permute", "transpose", "t", "flatten", "unflatten", "unsqueeze"),
    *("squeeze", "expand", "detach", "clone", "contiguous", "to", "type", "float", "double", "half", "new_tensor"),
    *("sin", "cos", "exp", "log", "sqrt", "abs", "neg", "any", "all"),
}
ELEMENTWISE = {
    *("add", "sub", "mul", "div", "pow", "rsub", "__rpow__", "__or__", "__and__", "where", "masked_fill"),
    *("eq", "ne", "lt", "le", "gt", "ge", "min", "max", "minimum", "maximum"),
}
JOINING = {"cat", "stack", "concat", "tensor", "as_tensor"}
PICKLED = 1000  # tensors of a file of torch's, which tells by being read
META = torch.device("meta")


@contextmanager
def bounded(where: str, *files: Path, loaded: bool = False) -> Iterator[None]:
    """Builds inside no more than what files of weights, safetensors or torch's, speak for; raises UserError for more.

    where: what errors point at.
    loaded: whether every parameter is loaded next, so that zeros do for random numbers.
    """
    counts = [_count_tensors(file) for file in files]
    with _Bounds(where, sum(file.stat().st_size for file in files), sum(counts), loaded):
        yield


def check_values(values: Any, where: str) -> None:
    """Raises UserError where the options of a network, or of what it is shown, hold too large a number or too many."""
    count, level = 0, [("", values)]
    while level:
        count += len(level)
        refuse("network_values", count, f"{where} holds too many values")
        for name, value in level:
            if isinstance(value, int):
                most = min(abs(value), 10**18)  # what is larger cannot be told
                refuse("network_option", most, f"{where}: {name} is {f'{value:,}'[:25]}")
        level = [(f"{name}.{key}".lstrip("."), inner) for name, value in level for key, inner in _inside(value)]


def _inside(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, list | tuple) else ()


def _count_tensors(file: Path) -> int:
    """Returns how many tensors a file holds by its header, which safetensors holds to the file's size."""
    if not file.is_file():
        raise UserError(f"there are no weights at {file}; expected a file that `mmssl train` wrote")
    if file.suffix != ".safetensors":
        return PICKLED
    try:
        with safe_open(file, "pt") as opened:
            return len(opened.keys())
    except Exception as error:  # safetensors raises its own and OS errors
        raise UserError(f"{file} is damaged: {error}") from error


class _Bounds(TorchFunctionMode):
    """Counts what torch's functions are asked for, the large before they run, on tensors without memory."""

    def __init__(self, where: str, size: int, tensors: int, loaded: bool) -> None:
        super().__init__()
        self.where, self.loaded, self.bytes, self.parts = where, loaded, 0, 0
        self.free_bytes, self.free_parts = BYTES * size, PARTS * tensors
        self.most_bytes = self.free_bytes + limit("network_slack")
        self.most_parts = self.free_parts + limit("network_parts")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in FREE or (name.endswith("_") and not name.endswith("__")):
            return self._in_place(func, name, args, kwargs)
        if _most(name, args, kwargs) * WIDEST > self.most_bytes - self.bytes:
            self._count(_sketch(func, name, args, kwargs))
            return func(*args, **kwargs)
        made = func(*args, **kwargs)
        self._count(made)
        return made

    def _in_place(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        changed = args[0] if args else kwargs.get("tensor")  # as nn.init hands it on
        if not (self.loaded and name in DRAWS and isinstance(changed, nn.Parameter)):
            return func(*args, **kwargs)
        changed.data.zero_()
        return changed

    def _count(self, made: Any) -> None:
        """Adds what a function returns, or a sketch of it."""
        self.bytes += made.nbytes if isinstance(made, Tensor) else sum(t.nbytes for t in _tensors_in(made))
        self.parts += 1
        if self.bytes > self.most_bytes or self.parts > self.most_parts:
            text = f"{self.where}: the network of its config takes far more than its weights on disk"
            refuse("network_slack", self.bytes - self.free_bytes, f"{text}, {self.bytes:,} bytes")
            refuse("network_parts", self.parts - self.free_parts, f"{text}, {self.parts:,} tensors")


def _most(name: str, args: Any, kwargs: dict[str, Any]) -> float:
    """Returns the most elements that a function makes, roughly; by default the product of all sizes it is given."""
    values = [*args, *kwargs.values()]
    tensors = [value for value in values if isinstance(value, Tensor)]
    if name in SAME:
        return max((tensor.numel() for tensor in tensors), default=0)
    if name in ELEMENTWISE:
        return math.prod(map(max, zip_longest(*(reversed(tensor.shape) for tensor in tensors), fillvalue=1)))
    if name in JOINING:
        return sum(tensor.numel() for tensor in _tensors_in(values))
    if name == "arange":
        low, high, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
        return float(abs(high - low) / abs(step))
    return _product(values) ** (2 if name == "eye" else 1)


def _product(values: Iterable[Any]) -> float:
    most = 1.0
    for value in values:
        if isinstance(value, Tensor):
            most *= max(value.numel(), 1)
        elif isinstance(value, int):
            most *= max(min(value, 2**64), 1)
        elif isinstance(value, list | tuple):
            most *= _product(value)
    return most


def _sketch(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """Returns what a function would, on tensors without memory."""
    given = _tensors_in((args, kwargs))
    if name == "__deepcopy__":  # which remembers what it copied
        return given[0]
    try:
        if not given:
            return func(*args, **{**kwargs, "device": META})
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to(META), (args, kwargs))
        return func(*args, **kwargs)
    except Exception:  # what depends on values returns no more than it is given
        return given


def _tensors_in(values: Any) -> list[Tensor]:
    return [value for value in tree_iter(values) if isinstance(value, Tensor)]
