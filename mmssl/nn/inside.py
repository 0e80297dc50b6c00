"""What layers inside an encoder put out, by the names of its submodules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmssl.errors import UserError, did_you_mean
from mmssl.types import Encoder, Features, evaluating

TOKENS = "tokens"  # the encoder's own cells, in place of a layer's name


def outputs(encoder: Encoder, x: Any, names: Sequence[str]) -> tuple[Features, dict[str, Any]]:
    """Returns an encoder's features of a batch, and what its submodules of these names put out on the way."""
    inside, caught = dict(encoder.named_modules()), dict[str, Any]()
    hooks = [inside[n].register_forward_hook(lambda _, __, out, n=n: caught.__setitem__(n, out)) for n in names]
    try:
        # A compiled call would not stop at hooks inside it.
        features: Features = encoder.forward(x) if hooks else encoder(x)
    finally:
        for hook in hooks:
            hook.remove()
    if missed := [name for name in names if name not in caught]:
        raise UserError(f"the layer {missed[0]!r} takes no part in encoding; choose another")
    return features, caught


def maps(encoder: Encoder, x: Any, levels: Sequence[str]) -> list[Tensor]:
    """Returns a map (B, C, H, W) of images at each level: the encoder's tokens, or what a submodule puts out.

    levels: "tokens", or names of submodules, such as model.layer3 of a ResNet. UserError for what is no map.
    """
    layers = [name for name in levels if name != TOKENS]
    features, caught = outputs(encoder, x, layers)
    if TOKENS in levels:
        if features.tokens is None or features.grid is None or len(features.grid) != 2:
            raise UserError("the encoder gives no cells of a map; choose one such as convnet, or name its layers")
        caught[TOKENS] = features.tokens.mT.unflatten(2, features.grid)
    for name in layers:
        if not isinstance(caught[name], Tensor) or caught[name].ndim != 4:
            raise UserError(f"the layer {name!r} puts out no maps (B, C, H, W); choose another")
    return [caught[name] for name in levels]


def map_sizes(encoder: Encoder, levels: Sequence[str]) -> list[tuple[int, int, int]]:
    """Returns (C, H, W) of the map at each level, of an image of the encoder's own size."""
    known = dict(encoder.named_modules())
    for name in levels:
        if name != TOKENS and (not name or name not in known):
            raise UserError(f"the encoder has no layer {name!r}; {did_you_mean(name, [TOKENS, *filter(None, known)])}")
    with torch.no_grad(), evaluating(encoder):
        found = maps(encoder, encoder.preprocess.blank()[None].to(encoder.device), levels)
    return [(each.shape[1], each.shape[2], each.shape[3]) for each in found]
