"""How a state dict differs from the module that it is for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

NAMED = 3  # of each kind of difference


def misfit(module: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Returns what a state dict lacks, has besides, or has in another shape, the first of each; "" where it fits."""
    own = module.state_dict()
    missing = [key for key in own if key not in weights]
    unexpected = [key for key in weights if key not in own]
    shaped = [
        f"{key} {tuple(weights[key].shape)}, not {tuple(value.shape)}"
        for key, value in own.items()
        if key in weights and weights[key].shape != value.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shaped}
    return "; ".join(_tell(kind, keys) for kind, keys in kinds.items() if keys)


def _tell(kind: str, keys: list[str]) -> str:
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return f"{kind}: {', '.join(keys[:NAMED])}{more}"
