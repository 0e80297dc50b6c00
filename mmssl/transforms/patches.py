"""Patches of whole batches of images, cut on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.numerics.color import as_unit


def cut(x: Tensor, *, cell: int, stride: int | None = None, side: int | None = None) -> Tensor:
    """Cuts images (B, C, H, W) into cells, row by row, and of each a patch at a random place: (B, N, C, side, side).

    cell: side of the cells in pixels; stride: from one to the next, by default the cell's side. side: of the patches,
    by default the whole cell; smaller ones lie anywhere in it, so that nothing runs on from patch to patch.
    """
    stride, side = stride or cell, side or cell
    if not 0 < side <= cell <= min(x.shape[2:]):
        raise UserError(f"patches of {side} from cells of {cell} cannot be cut from pictures of {tuple(x.shape[2:])}")
    cells = x.unfold(2, cell, stride).unfold(3, cell, stride)  # (B, C, R, K, cell, cell)
    cells = cells.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)  # (B, N, C, cell, cell)
    if side == cell:
        return cells
    room, shape = cell - side + 1, cells.shape[:2]
    within = torch.arange(side, device=x.device)
    rows, columns = (torch.randint(room, shape, device=x.device)[..., None] + within for _ in range(2))  # (B, N, side)
    rows = rows[:, :, None, :, None].expand(-1, -1, x.shape[1], -1, cell)
    columns = columns[:, :, None, None].expand(-1, -1, x.shape[1], side, -1)
    return cells.gather(3, rows).gather(4, columns)


def leveled(patches: Tensor, *, mean: float = 0.45, std: float = 0.225) -> Tensor:
    """Brings each channel of each patch (..., C, side, side), uint8 or float, to one mean and deviation, as floats.

    So how bright and how rich in contrast a patch is tells nothing about where it comes from. The defaults are about
    ImageNet's, so that encoders see what they expect; values may lie outside 0 to 1. An even patch stays even.
    """
    x = as_unit(patches)
    centred = x - x.mean((-1, -2), keepdim=True)
    return mean + std * centred / centred.square().mean((-1, -2), keepdim=True).sqrt().clamp(min=1e-3)
