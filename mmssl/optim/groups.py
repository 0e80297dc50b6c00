"""Which parameters decay, and which have options of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmssl.types import Encoder


def param_groups(module: nn.Module, *, own: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """Splits the trainable parameters in two groups: matrices decay; biases, norms and scalars do not.

    own: groups, `params` and their options, that stand apart; each is split likewise, unless it has a weight_decay.
    """
    apart = {id(p) for group in own for p in group["params"]}
    groups: list[dict[str, Any]] = []
    for group in ({"params": [p for p in module.parameters() if id(p) not in apart]}, *own):
        trained = [p for p in group["params"] if p.requires_grad]
        matrices, vectors = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
        groups += [{**group, "params": matrices}, {"weight_decay": 0.0, **group, "params": vectors}]
    return [group for group in groups if group["params"]]


def layer_groups(encoder: Encoder, *, lr: float, decay: float) -> list[dict[str, Any]]:
    """Gives each of an encoder's layers a rate of its own: `lr` times decay ** its distance from the output.

    The last layer's distance is 1, so that a classifier behind it has 0.
    Of a layer, matrices decay and vectors do not. Clark et al., ICLR 2020 (ELECTRA), as MAE and BEiT fine-tune.
    """
    stack = layers(encoder)
    groups: list[dict[str, Any]] = []
    for number, weights in enumerate(stack):
        rate = lr * decay ** (len(stack) - number)
        groups.append({"params": [p for p in weights if p.ndim >= 2], "lr": rate})
        groups.append({"params": [p for p in weights if p.ndim < 2], "lr": rate, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def layers(encoder: Encoder) -> list[list[Tensor]]:
    """Returns the parameters of each layer, from the input to the output as the encoder lists its modules.

    Sequences of blocks, and encoders inside, are unrolled; a norm or the like belongs to the layer before it, and what
    stands beside the layers (position codes, class tokens) to the first.
    """
    found: list[list[Tensor]] = []
    loose: list[Tensor] = []
    _unroll(encoder, found, loose)
    return [[*loose, *found[0]], *found[1:]] if found else [loose]


def _unroll(module: nn.Module, found: list[list[Tensor]], loose: list[Tensor]) -> None:
    loose += module.parameters(recurse=False)
    inner = _weighty(module)
    for child in inner:
        alone = len(inner) == 1 and isinstance(module, Encoder) and any(child.children())
        if alone or isinstance(child, Encoder) or any(map(_is_stack, (child, *_weighty(child)))):
            _unroll(child, found, loose)
        elif any(child.children()) or not found:
            found.append(list(child.parameters()))
        else:
            found[-1] += child.parameters()


def _weighty(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if any(True for _ in child.parameters())]


def _is_stack(module: nn.Module) -> bool:
    """Tells whether a module is a sequence of blocks, not of single operations."""
    parts = _weighty(module)
    return isinstance(module, nn.Sequential | nn.ModuleList) and bool(parts) and all(any(p.children()) for p in parts)
