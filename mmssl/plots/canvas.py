"""What images are made of: colour maps, label colours, and tiles with titles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]  # (H, W, 3)

PALETTE = np.array(
    [
        (0, 0, 0),
        (230, 60, 50),
        (60, 170, 75),
        (65, 100, 215),
        (245, 200, 30),
        (145, 60, 180),
        (70, 200, 220),
        (240, 130, 50),
    ],
    dtype=np.uint8,
)
GAP, TITLE, FONT = 4, 16, 11  # pixels
# Eight colours that people of any colour vision tell apart. Okabe & Ito, 2008.
DISTINCT = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#F0E442")


def scaled(pixels: Pixels, side: int) -> Pixels:
    """Scales an image (H, W, 3) until its longer side is `side`."""
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def heat(
    values: NDArray[np.floating], *, shape: tuple[int, int] | None = None, limits: tuple[float, float] | None = None
) -> Pixels:
    """Colours a map (H, W) between two limits, by default its least and largest value, scaled smoothly to a shape."""
    import matplotlib

    low, high = limits or (float(values.min()), float(values.max()))
    unit = Image.fromarray(((values - low) / (high - low + 1e-12)).astype(np.float32))
    if shape is not None:
        unit = unit.resize(shape[::-1], Image.Resampling.BICUBIC)
    colors = matplotlib.colormaps["inferno"](np.clip(np.asarray(unit), 0, 1))
    return (colors[..., :3] * 255).round().astype(np.uint8)


def blend(under: Pixels, over: Pixels, *, opacity: float = 0.5, where: NDArray[np.bool_] | None = None) -> Pixels:
    """Lays one image over another of the same shape, everywhere or under a mask (H, W)."""
    mixed = (under * (1 - opacity) + over * opacity).round().astype(np.uint8)
    return mixed if where is None else np.where(where[..., None], mixed, under)


def label_colors(labels: NDArray[np.integer]) -> Pixels:
    """Gives each label of a map (H, W) its colour; 0 is black."""
    return PALETTE[np.where(labels > 0, (labels - 1) % (len(PALETTE) - 1) + 1, 0)]


def tiles(rows: Sequence[Sequence[Pixels]], *, titles: Sequence[Sequence[str]] | None = None) -> Image.Image:
    """Lays images of any sizes out in rows, each with a title above it where titles are given, cut to its width."""
    heights = [max(tile.shape[0] for tile in row) + (TITLE if titles else 0) for row in rows]
    columns = max(map(len, rows))
    widths = [max((row[c].shape[1] for row in rows if c < len(row)), default=0) for c in range(columns)]
    whole = Image.new("RGB", (sum(widths) + GAP * (columns + 1), sum(heights) + GAP * (len(rows) + 1)), "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(FONT)
    for r, row in enumerate(rows):
        top = GAP * (r + 1) + sum(heights[:r])
        for c, tile in enumerate(row):
            left = GAP * (c + 1) + sum(widths[:c])
            if titles:
                pen.text((left, top), fitted(titles[r][c], widths[c]), fill="black", font=font)
            whole.paste(Image.fromarray(np.ascontiguousarray(tile)), (left, top + (TITLE if titles else 0)))
    return whole


def fitted(text: str, width: int) -> str:
    """Returns a text without the beginning that has no room in this many pixels: the end of a path tells most."""
    font = ImageFont.load_default(FONT)
    if font.getlength(text) <= width:
        return text
    cut = next((n for n in range(1, len(text)) if font.getlength(f"..{text[n:]}") <= width), len(text))
    return f"..{text[cut:]}"


def wrapped(text: str, width: int) -> list[str]:
    """Returns a text in lines that have room in this many pixels, broken between words."""
    font, lines = ImageFont.load_default(FONT), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
