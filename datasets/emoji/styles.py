"""Other styles of a picture, for judging only: each is redrawn in other proportions, then rendered otherwise.

The recipes for emoji show none of them: no lines alone, bent shapes or grey, and no hue turned by more than a tenth of
a circle. Nearest come their tone curves, one for each channel, to false colours, and the large pixels of lit_emoji,
which are never fewer than 16 to a side, to those of `coarse`.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Pixels = NDArray[np.float32]  # (H, W, 3) in 0 to 1, over white
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
TURN, SMALLEST, BEND = 12.0, 0.75, 0.04  # degrees, share of the side, share of the side that places are moved by
COARSE, COLORS = 14, 6  # large pixels to a side; false colours


def redrawn(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    """Turns a picture by up to 12 degrees, scales width and height to 0.75 to 1, and bends it smoothly."""
    side = pixels.shape[0]
    angle, sizes = np.deg2rad(draw.uniform(-TURN, TURN)), draw.uniform(SMALLEST, 1, 2)
    places = (np.mgrid[:side, :side].reshape(2, -1) + 0.5) / side - 0.5
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    bend = [ndimage.zoom(draw.uniform(-BEND, BEND, (4, 4)), side / 4, order=3, mode="nearest").ravel() for _ in "yx"]
    source = ((turn @ places) / sizes[:, None] + bend + 0.5) * side - 0.5
    drawn = [
        ndimage.map_coordinates(channel, source, order=1, cval=1.0).reshape(side, side)
        for channel in np.moveaxis(pixels, 2, 0)
    ]
    return np.stack(drawn, axis=2).astype(np.float32)


def outline(pixels: Pixels, _draw: np.random.Generator) -> Pixels:
    """Draws black lines where colours change, on white, and nothing else."""
    smooth = ndimage.gaussian_filter(pixels, (1, 1, 0))
    change = np.max([ndimage.morphological_gradient(channel, 3) for channel in np.moveaxis(smooth, 2, 0)], axis=0)
    return np.repeat((change < 0.15)[:, :, None], 3, axis=2).astype(np.float32)


def grey(pixels: Pixels, _draw: np.random.Generator) -> Pixels:
    """Shows brightness alone."""
    return np.repeat((pixels @ LUMA)[:, :, None], 3, axis=2)


def palette(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    """Reduces a picture to six flat colours, and replaces all of them but white by others, drawn anew."""
    few = Image.fromarray((pixels * 255).round().astype(np.uint8)).quantize(COLORS)
    numbers = np.asarray(few)
    old = np.asarray(few.getpalette()).reshape(-1, 3)[: numbers.max() + 1] / 255
    new = np.array([colorsys.hsv_to_rgb(*draw.uniform((0, 0.3, 0.3), 1)) for _ in old])
    new[old.min(axis=1) > 0.97] = 1
    return new[numbers].astype(np.float32)


def coarse(pixels: Pixels, _draw: np.random.Generator) -> Pixels:
    """Shows 14 x 14 large pixels."""
    whole = Image.fromarray((pixels * 255).round().astype(np.uint8))
    small = whole.resize((COARSE, COARSE), Image.Resampling.BOX)
    return np.asarray(small.resize(whole.size, Image.Resampling.NEAREST), dtype=np.float32) / 255


def hue(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    """Turns the hue by a third to two thirds of a circle."""
    whole = Image.fromarray((pixels * 255).round().astype(np.uint8)).convert("HSV")
    values = np.asarray(whole).copy()
    values[:, :, 0] += np.uint8(draw.integers(85, 171))  # of 256, and on from the start
    return np.asarray(Image.fromarray(values, "HSV").convert("RGB"), dtype=np.float32) / 255


STYLES: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "outline": outline,
    "grey": grey,
    "palette": palette,
    "coarse": coarse,
    "hue": hue,
}


def styled(picture: Image.Image, style: str, draw: np.random.Generator) -> Image.Image:
    """Returns a picture (RGB, over white) redrawn and in a style."""
    pixels = redrawn(np.asarray(picture, dtype=np.float32) / 255, draw)
    made = STYLES[style](pixels, draw)
    return Image.fromarray((made.clip(0, 1) * 255).round().astype(np.uint8))
