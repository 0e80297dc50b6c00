"""Which parameters decay, and which have options of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor, nn

from mmssl.schema import Count, above, at_least, at_most
from mmssl.types import Encoder

HEADS = "heads"  # in optim.groups, what the objectives own
Share = Annotated[float, at_least(0), at_most(1)]


@dataclass(kw_only=True, slots=True)
class GroupOptions:
    """What `optim.groups` may say of the weights of a part; what it leaves out is as for the rest of the run.

    lr: peak learning rate.
    weight_decay: of matrices; biases, norms and scalars do not decay.
    warmup: optimizer steps in which the rate rises, in place of train.warmup.
    final_lr: the last rate as a share of the peak, in place of train.final_lr; 1 keeps the rate at its peak.
    layer_decay: factor on the rate from each layer of an encoder to the one before it: the layer l of L, the embedding
        being 0, has lr x layer_decay^(L + 1 - l), so that the heads behind the encoder have lr (Clark et al., ICLR
        2020; Bao et al., ICLR 2022). Blocks of transformers and residual networks are layers; a norm behind them goes
        with the last.
    """

    lr: Annotated[float, at_least(0)] | None = None
    weight_decay: Annotated[float, at_least(0)] | None = None
    warmup: Count | None = None
    final_lr: Share | None = None
    layer_decay: Annotated[float, above(0), at_most(1)] | None = None


def param_groups(
    module: nn.Module, *, own: Sequence[Mapping[str, Any]] = (), named: Mapping[int, Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Splits the trainable parameters into groups of equal options: matrices decay; biases, norms and scalars do not.

    own: groups, `params` and their options, of which a weight_decay is also that of vectors.
    named: options of parameters by their id, on which those of `own` stand.
    """
    named = named or {}
    apart = {
        id(p): {key: value for key, value in group.items() if key != "params"} for group in own for p in group["params"]
    }
    found: dict[str, dict[str, Any]] = {}
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in sorted(trained, key=lambda p: (id(p) in apart, id(p) in named, p.ndim < 2)):
        options = {**named.get(id(parameter), {}), **({"weight_decay": 0.0} if parameter.ndim < 2 else {})}
        options |= apart.get(id(parameter), {})
        group = found.setdefault(f"{parameter.ndim < 2} {sorted(options.items())}", {**options, "params": []})
        group["params"].append(parameter)
    return list(found.values())


def layer_groups(encoder: Encoder, *, lr: float, decay: float) -> list[dict[str, Any]]:
    """Gives each of an encoder's layers a rate of its own: `lr` times what `layer_scales` says.

    Of a layer, matrices decay and vectors do not.
    """
    groups: list[dict[str, Any]] = []
    for scale, weights in layer_scales(encoder, decay=decay):
        groups.append({"params": [p for p in weights if p.ndim >= 2], "lr": lr * scale})
        groups.append({"params": [p for p in weights if p.ndim < 2], "lr": lr * scale, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def layer_scales(encoder: Encoder, *, decay: float) -> list[tuple[float, list[Tensor]]]:
    """Returns for each of an encoder's layers a factor on the rate, and its parameters: decay ** distance.

    The last layer's distance from the output is 1, so that what stands behind it has 0. Clark et al., ICLR 2020
    (ELECTRA), as MAE and BEiT fine-tune.
    """
    stack = layers(encoder)
    return [(decay ** (len(stack) - number), weights) for number, weights in enumerate(stack)]


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
    inner = with_weights(module)
    for child in inner:
        alone = len(inner) == 1 and isinstance(module, Encoder) and any(child.children())
        if alone or isinstance(child, Encoder) or any(map(is_stack, (child, *with_weights(child)))):
            _unroll(child, found, loose)
        elif any(child.children()) or not found:
            found.append(list(child.parameters()))
        else:
            found[-1] += child.parameters()


def with_weights(module: nn.Module) -> list[nn.Module]:
    """Returns the modules right inside one that have parameters."""
    return [child for child in module.children() if any(True for _ in child.parameters())]


def is_stack(module: nn.Module) -> bool:
    """Tells whether a module is a sequence of blocks, not of single operations."""
    parts = with_weights(module)
    return isinstance(module, nn.Sequential | nn.ModuleList) and bool(parts) and all(any(p.children()) for p in parts)
