"""Perceptrons: which layers each option makes, and how their weights begin."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mmssl.nn.mlp import mlp


def outline(layers: nn.Sequential) -> list[str]:
    names = {nn.ReLU: "relu", nn.GELU: "gelu"}
    return [
        f"{x.in_features}-{x.out_features}{'' if x.bias is None else ' +bias'}"
        if isinstance(x, nn.Linear)
        else f"norm {x.num_features}{'' if x.affine else ' bare'}"
        if isinstance(x, nn.BatchNorm1d)
        else names[type(x)]
        for x in layers
    ]


NORMED = ["5-4", "norm 4", "relu", "4-3", "norm 3", "relu"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [*NORMED, "3-2"]),
        ({"bias": True}, [*NORMED, "3-2 +bias"]),
        ({"norm": False}, ["5-4 +bias", "relu", "4-3 +bias", "relu", "3-2"]),
        ({"gelu": True}, ["5-4", "norm 4", "gelu", "4-3", "norm 3", "gelu", "3-2"]),
        ({"affine": False}, [*NORMED, "3-2"]),
        ({"last_norm": True}, [*NORMED, "3-2", "norm 2"]),
        (
            {"last_norm": True, "affine": False, "norm": False},
            ["5-4 +bias", "relu", "4-3 +bias", "relu", "3-2", "norm 2 bare"],
        ),
    ],
)
def test_layers(options: dict[str, Any], expected: list[str]) -> None:
    assert outline(mlp((5, 4, 3, 2), **options)) == expected


def test_without_hidden_sizes_it_is_linear() -> None:
    assert outline(mlp((5, 2))) == ["5-2"]


def test_weights_begin_with_a_variance_of_one_over_their_inputs_and_biases_with_zero() -> None:
    layers = mlp((100, 900, 400), norm=False, bias=True)
    for layer, inputs in ((layers[0], 100), (layers[2], 900)):
        assert layer.weight.std().item() == pytest.approx(inputs**-0.5, rel=0.01)
        assert layer.weight.mean().abs().item() < 0.01 * inputs**-0.5
        assert not layer.bias.any()
    kurtosis = (layers[0].weight / layers[0].weight.std()).pow(4).mean()
    torch.testing.assert_close(kurtosis, torch.tensor(3.0), rtol=0.05, atol=0)  # normal, not uniform
