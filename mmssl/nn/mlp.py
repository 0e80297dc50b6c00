"""Perceptrons: what projects and predicts on top of encoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(
    sizes: Sequence[int],
    *,
    norm: bool = True,
    bias: bool = False,
    last_norm: bool = False,
    affine: bool = True,
    gelu: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Builds linear layers from size to size (inputs first), with BatchNorm and ReLU or GELU behind each but the last.

    norm: BatchNorm on hidden layers; without it they have biases.
    bias: of the last layer.
    last_norm: BatchNorm behind the last layer as well, whose scale and shift `affine` learns.
    dropout: in front of every linear layer.
    """
    layers: list[nn.Module] = []
    drop = [nn.Dropout(dropout)] if dropout else []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += drop
        layers += [nn.Linear(inputs, outputs, bias=not norm)]
        layers += [nn.BatchNorm1d(outputs)] if norm else []
        layers += [nn.GELU() if gelu else nn.ReLU(inplace=True)]
    layers += [*drop, nn.Linear(sizes[-2], sizes[-1], bias=bias)]
    layers += [nn.BatchNorm1d(sizes[-1], affine=affine)] if last_norm else []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
