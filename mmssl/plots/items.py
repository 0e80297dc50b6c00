"""One item of a set, as a tile: what a person sees of an image, video, sound, cloud or text."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mmssl.modalities import image
from mmssl.modalities import points as clouds
from mmssl.plots.canvas import FONT, Pixels, wrapped
from mmssl.plots.scatter import dots, look_down, on_canvas
from mmssl.transforms.image import opened

INK = (70, 110, 190)
LEADING = 14  # pixels from line to line


def drawn_item(modality: str, raw: Any, *, side: int, line: int) -> Pixels:
    """Draws an image or the middle of a video, a sound's envelope, a cloud, or a text; for others an empty tile.

    side: of the tile, in pixels. line: width of a text's tile, whose other lines than those with room are left out.
    """
    if modality == "points":
        seen = look_down(clouds.load(raw).xyz)
        return dots(on_canvas(seen, side), seen[:, 2], np.full((len(seen), 3), INK, np.uint8), side, size=2)
    tile = Image.new("RGB", (line if modality == "text" else side, side), "white")
    pen = ImageDraw.Draw(tile)
    if modality in ("image", "video"):
        whole = ImageOps.contain(image.pixels(opened(raw)), (side, side))
        tile.paste(whole, ((side - whole.width) // 2, (side - whole.height) // 2))
    elif modality == "audio":
        power = raw.read(sample_rate=8000).abs()
        bars = torch.nn.functional.adaptive_max_pool1d(power[None], side)[0]
        for x, height in enumerate((bars / bars.max().clamp(min=1e-6) * side / 2).tolist()):
            pen.line((x, side / 2 - height, x, side / 2 + height), fill=INK)
    elif modality == "text":
        lines = wrapped(raw if isinstance(raw, str) else raw[0], line - 4)[: side // LEADING]
        for number, text in enumerate(lines):
            top = (side - LEADING * len(lines)) // 2 + LEADING * number
            pen.text((2, top), text, fill="black", font=ImageFont.load_default(FONT))
    return np.asarray(tile)
