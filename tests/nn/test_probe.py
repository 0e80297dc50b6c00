"""What a task learns of an encoder's tokens from a blank input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.nn.probe import grid_of, pixels_per_cell
from mmssl.types import Encoder, Features, Preprocess


class Blank(Preprocess):
    modality = "image"

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def blank(self) -> Tensor:
        return torch.zeros(self.shape)


class Gridded(Encoder):
    """Says that its tokens lie on a grid, and counts how it is asked."""

    modality, dim = "image", 4

    def __init__(self, shape: tuple[int, ...], grid: tuple[int, ...] | None) -> None:
        super().__init__()
        self.preprocess, self.grid = Blank(*shape), grid
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("shift", torch.ones(4))
        self.asked: list[Any] = []

    def forward(self, x: Tensor) -> Features:
        self.asked.append((tuple(x.shape), x.device.type, self.training, torch.is_grad_enabled()))
        return Features(x.new_zeros(len(x), 4) * self.weight + self.shift, grid=self.grid)


def test_a_blank_is_shown_without_working_anything_out() -> None:
    encoder = Gridded((3, 12, 8), (3, 2))
    assert grid_of(encoder) == (3, 2)
    assert encoder.asked == [((1, 3, 12, 8), "meta", False, False)]
    assert encoder.training and encoder.weight.device.type == "cpu"
    encoder.eval()
    assert grid_of(encoder) == (3, 2) and not encoder.training


def test_a_real_encoder_says_its_grid() -> None:
    vit = create_encoder("vit", image_size=16, patch_size=8, width=16, depth=1, heads=2)
    assert grid_of(vit) == (2, 2) and pixels_per_cell(vit) == 8


@pytest.mark.parametrize("name", ["", "flat"])
def test_tokens_on_no_grid_are_refused_by_name(name: str) -> None:
    encoder = Gridded((3, 8, 8), None)
    encoder.name = name
    with pytest.raises(UserError, match=f"the tokens of '{name or 'Gridded'}' lie on no grid"):
        grid_of(encoder)


@pytest.mark.parametrize(
    ("size", "grid", "side"), [((16, 16), (4, 4), 4), ((16, 8), (4, 2), 4), ((6, 12), (1, 2), 6), ((5, 5), (5, 5), 1)]
)
def test_the_side_of_a_cell(size: tuple[int, int], grid: tuple[int, int], side: int) -> None:
    assert pixels_per_cell(Gridded((3, *size), grid)) == side


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((16, 16), (4, 2)),
        ((16, 17), (4, 4)),
        ((17, 16), (4, 4)),
        ((17, 17), (4, 4)),
        ((16, 16), (1, 4, 4)),
        ((16, 16), (4,)),
    ],
)
def test_cells_that_are_no_squares_of_pixels_are_refused(size: tuple[int, int], grid: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="pixels are predicted from square cells"):
        pixels_per_cell(Gridded((3, *size), grid))
