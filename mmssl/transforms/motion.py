"""Where and when a clip moves: maps of motion between its images, and the windows and boxes that they lead to."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import LackingError

Motion = Literal["differences", "flow"]

SIDE = 32  # cells along the shorter side of a map: coarse enough that noise and codecs leave it alone
STILL = 4.0  # grey levels; where no cell changes by more, nothing moves


def motion_maps(pictures: np.ndarray, *, measure: Motion = "differences") -> Tensor:
    """Measures the motion from each image (T, H, W, 3) to the next in cells: (T - 1, h, w).

    differences: of grey levels. flow: length of the optical flow, in cells. Raises LackingError if nothing moves.
    """
    height, width = pictures.shape[1:3]
    shrink = min(1.0, SIDE / min(height, width))
    cells = max(1, round(height * shrink)), max(1, round(width * shrink))
    grey = F.adaptive_avg_pool2d(torch.from_numpy(pictures).float() @ torch.full((3,), 1 / 3), cells)  # (T, h, w)
    differences = (grey[1:] - grey[:-1]).abs()
    if not (differences > STILL).any():
        raise LackingError("clip without motion")
    return differences if measure == "differences" else flow_length(grey)


def flow_length(grey: Tensor) -> Tensor:
    """Returns the length of the optical flow between grey images (T, h, w): (T - 1, h, w), in pixels.

    Least squares over 5 x 5 windows, damped where there is no texture. Lucas and Kanade, IJCAI 1981.
    """
    middle, change = (grey[1:] + grey[:-1]) / 2, grey[1:] - grey[:-1]
    down, right = torch.gradient(middle, dim=(1, 2))
    products = torch.stack([right * right, right * down, down * down, right * change, down * change], dim=1)
    xx, xy, yy, xt, yt = F.avg_pool2d(products, 5, stride=1, padding=2).unbind(1)
    xx, yy = xx + 1.0, yy + 1.0
    determinant = xx * yy - xy * xy
    return torch.hypot((xy * yt - yy * xt) / determinant, (xy * xt - xx * yt) / determinant)


def draw_window(maps: Tensor, steps: int) -> int:
    """Draws where a window of this many steps begins, as often as there is motion in it."""
    total = F.pad(maps.flatten(1).mean(dim=1).double().cumsum(0), (1, 0))
    return int(torch.multinomial((total[steps:] - total[:-steps]).clamp(min=0), 1))


def busiest_box(maps: Tensor, side: float) -> tuple[float, float]:
    """Returns the centre (x, y) of the square with the most motion, which counts more the nearer it is to the centre.

    side: the square's, and the centre, as shares of the image's shorter side.
    """
    height, width = maps.shape[1:]
    shorter = min(height, width)
    half = max(1, (1 + min(shorter, round(side * shorter))) // 2)
    once = F.avg_pool2d(maps.mean(dim=0)[None], half, stride=1)
    twice = F.avg_pool2d(once, half, stride=1)[0]
    row, column = divmod(int(twice.argmax()), twice.shape[1])
    return (column + half - 0.5) / shorter, (row + half - 0.5) / shorter
