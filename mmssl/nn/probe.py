"""What an encoder's tokens are like, found by showing it a blank input when a task is built."""

from __future__ import annotations

import torch
from torch.func import functional_call

from mmssl.errors import UserError
from mmssl.types import Encoder, evaluating


def grid_of(encoder: Encoder) -> tuple[int, ...]:
    """Returns the grid of the tokens of an image or video of the encoder's own size; UserError where there is none."""
    blank = encoder.preprocess.blank()[None].to("meta")  # sizes alone, nothing is worked out
    weights = {key: value.to("meta") for key, value in (*encoder.named_parameters(), *encoder.named_buffers())}
    with torch.no_grad(), evaluating(encoder):
        grid: tuple[int, ...] | None = functional_call(encoder, weights, (blank,)).grid
    if grid is None:
        name = encoder.name or type(encoder).__name__
        raise UserError(
            f"the task looks at cells, and the tokens of {name!r} lie on no grid; choose one such as convnet"
        )
    return grid


def pixels_per_cell(encoder: Encoder) -> int:
    """Returns the side, in pixels, of the square that a cell stands for; UserError where cells are no squares."""
    grid, size = grid_of(encoder), encoder.preprocess.blank().shape[-2:]
    if len(grid) != 2 or size[0] % grid[0] or (size[0] // grid[0]) * grid[1] != size[1]:
        raise UserError(f"pixels are predicted from square cells, and {tuple(size)} pixels have the grid {grid}")
    return size[0] // grid[0]
