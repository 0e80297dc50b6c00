"""Heads from an encoder's features to a task's embedding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.types import Features, Head


class Projection(Head):
    """Projects pooled features to a joint embedding (B, out) of unit length.

    out: size of the embedding; None only normalises. hidden: sizes of hidden layers; none is the linear
    projection of CLIP (Radford et al., ICML 2021), some an MLP with ReLU. norm: BatchNorm after each hidden layer.
    """

    def __init__(
        self, dim: int, *, out: int | None = 512, hidden: Sequence[int] = (), norm: bool = True, bias: bool = False
    ) -> None:
        super().__init__()
        self._config = {"dim": dim, "out": out, "hidden": list(hidden), "norm": norm, "bias": bias}
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((dim, *hidden)):
            layers += [nn.Linear(inputs, outputs, bias=not norm)]
            layers += [nn.BatchNorm1d(outputs)] if norm else []
            layers += [nn.ReLU(inplace=True)]
        if out is not None:
            layers += [nn.Linear((dim, *hidden)[-1], out, bias=bias)]
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def config(self) -> dict[str, Any]:
        """Returns the arguments that build this head again."""
        return dict(self._config)

    def forward(self, features: Features) -> Tensor:
        return F.normalize(self.layers(features.pooled).float(), dim=-1)
