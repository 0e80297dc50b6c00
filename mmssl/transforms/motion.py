"""Where and when a clip moves: maps of motion between its images, and the windows and boxes that they lead to."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import LackingError

Motion = Literal["differences", "flow"]

SIDE = 32  # cells along the shorter side of a map: coarse enough that noise and codecs leave it alone
STILL = 4.0  # grey levels; where no cell changes by more, nothing moves
CUT = 0.5  # images that correlate by less are of different shots


def motion_maps(pictures: np.ndarray, *, measure: Motion = "differences") -> Tensor:
    """Measures the motion from each image (T, H, W, 3) to the next in cells: (T - 1, h, w).

    differences: of grey levels. flow: length of the optical flow, in cells. Raises LackingError if nothing moves.
    """
    return _motion(_grey_cells(pictures), measure)


def _grey_cells(pictures: np.ndarray) -> Tensor:
    """Returns the grey levels (T, h, w) of the cells of images (T, H, W, 3)."""
    height, width = pictures.shape[1:3]
    shrink = min(1.0, SIDE / min(height, width))
    cells = max(1, round(height * shrink)), max(1, round(width * shrink))
    return F.adaptive_avg_pool2d(torch.from_numpy(pictures).float() @ torch.full((3,), 1 / 3), cells)


def _motion(grey: Tensor, measure: Motion) -> Tensor:
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


def draw_paced(
    pictures: np.ndarray, frames: int, gaps: Sequence[int], *, measure: Motion = "differences"
) -> tuple[int, int, Tensor]:
    """Draws so many of the images (T, H, W, 3) at even gaps, as often as there is motion from the first to the last.

    Returns the number of the first, the gap, and the map (h, w) of the motion between them. Frames of different shots,
    which correlate by less than 0.5, are never drawn together. Raises LackingError if nothing moves, or every shot is
    too short.
    """
    grey = _grey_cells(pictures)
    maps = _motion(grey, measure)
    moved = F.pad(maps.double().cumsum(0), (0, 0, 0, 0, 1, 0))  # (T, h, w), since the first image
    shot = F.pad((correlations(grey) < CUT).long().cumsum(0), (1, 0))  # (T,), which one each image is of
    spans = [(start, gap) for gap in gaps for start in range(len(grey) - gap * (frames - 1))]
    ends = [start + gap * (frames - 1) for start, gap in spans]
    within = [(span, end) for span, end in zip(spans, ends, strict=True) if shot[span[0]] == shot[end]]
    weights = [float((moved[end] - moved[start]).mean()) for (start, _), end in within]
    if not any(weight > 0 for weight in weights):
        raise LackingError("clip without a shot as long as the window")
    ((start, gap), end) = random.choices(within, weights=weights)[0]
    return start, gap, (moved[end] - moved[start]).float()


def correlations(grey: Tensor) -> Tensor:
    """Returns how each grey image (T, h, w) correlates with the next, (T - 1,); 1 for even ones."""
    x = grey.flatten(1)
    x = x - x.mean(dim=1, keepdim=True)
    products = (x[1:] * x[:-1]).mean(dim=1)
    spread = (x[1:].square().mean(dim=1) * x[:-1].square().mean(dim=1)).sqrt()
    return torch.where(spread < STILL**2, 1.0, products / spread.clamp(min=1e-9))


def draw_place(motion: Tensor, width: float, height: float, box: tuple[float, float]) -> tuple[float, float]:
    """Draws where a box (width, height) of an image lies, left and top, as often as there is motion (h, w) in it."""
    rows, columns = motion.shape
    cells = tuple(
        min(count, max(1, round(side * count / whole)))
        for side, whole, count in ((box[1], height, rows), (box[0], width, columns))
    )
    inside = F.avg_pool2d(motion[None], cells, stride=1)[0]
    row, column = divmod(int(torch.multinomial(inside.flatten().clamp(min=1e-9), 1)), inside.shape[1])
    left = (column + random.random()) / inside.shape[1] * (width - box[0])
    return left, (row + random.random()) / inside.shape[0] * (height - box[1])


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
