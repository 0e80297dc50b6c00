"""Draws points as dots on a canvas, the nearest on top, seen from a camera far away."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmssl.plots.canvas import Pixels

Array = NDArray[np.floating]
TILT = 0.6  # rad that the camera looks down
MARGIN = 0.04  # of the side


def look_down(xyz: Array, *, turn: float = 0.4) -> Array:
    """Returns points (N, 3) of a camera's frame (right, down, away) as a camera sees them from further up and aside."""
    c, s = np.cos(turn), np.sin(turn)
    right, away = xyz[:, 0] * c + xyz[:, 2] * s, xyz[:, 2] * c - xyz[:, 0] * s
    c, s = np.cos(TILT), np.sin(TILT)
    return np.stack([right, xyz[:, 1] * c - away * s, away * c + xyz[:, 1] * s], axis=1)


def on_canvas(seen: Array, side: int) -> Array:
    """Scales points (N, 3) as the camera has them into a square; returns columns and rows in pixels (N, 2)."""
    low, high = seen[:, :2].min(axis=0), seen[:, :2].max(axis=0)
    scale = side * (1 - 2 * MARGIN) / max(float((high - low).max()), 1e-6)
    return (seen[:, :2] - (low + high) / 2) * scale + side / 2


def dots(pixels: Array, depth: Array, colors: NDArray[np.uint8], side: int, *, size: int = 3) -> Pixels:
    """Draws points at pixels (N, 2), the farthest first, in colours (N, 3), as squares on white."""
    canvas = np.full((side, side, 3), 255, dtype=np.uint8)
    order = np.argsort(-depth, kind="stable")
    columns, rows = np.round(pixels[order]).astype(int).T
    for down in range(size):
        for across in range(size):
            r, c = (np.clip(x + d - size // 2, 0, side - 1) for x, d in ((rows, down), (columns, across)))
            canvas[r, c] = colors[order]
    return canvas
