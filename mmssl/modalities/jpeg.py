"""JPEGs decoded by libjpeg-turbo itself (simplejpeg) into an array: Pillow takes 1.5 times as long, and copies twice.

Values are those that Pillow gives, bit by bit. Left to Pillow are files that libjpeg warns of, so that it tells what is
damaged; CMYK; large images; and progressive files of more scans than an encoder makes.
A plain file, of which nothing but its size is of interest, is opened by a walk through its segments, which takes a
quarter of the time of Pillow's plugin. It is strict: of any other file the plugin says what it is.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image
from PIL.JpegImagePlugin import jpeg_factory

from mmssl.limits import limit
from mmssl.modalities.pixels import Pixels

PIXELS = 2**24  # of the whole image; of a larger one no more is held than what Pillow decodes
SCANS = 32  # of a progressive file: each, however short, takes the time of a whole image
MODES = {1: "L", 3: "RGB"}
START, JFIF = b"\xff\xd8", b"JFIF\x00"
APP0, QUANTA, FRAME, CODES, SCAN = 0xE0, 0xDB, 0xC0, 0xC4, 0xDA  # all markers of a plain file, by their second bytes
TABLE = 65  # bytes of a table of quanta of 8 bits


class Plain(Image.Image):
    """A plain JPEG, within the limits, that is not yet read; Pillow's plugin reads it where it is used as an image."""

    format = "JPEG"

    def __init__(self, data: bytes, mode: str, size: tuple[int, int]) -> None:
        super().__init__()
        self._mode, self._size = mode, size
        self.fp: io.BytesIO | None = io.BytesIO(data)

    def load(self) -> Any:
        stream = getattr(self, "fp", None)  # a copy has none
        if stream is not None:
            stream.seek(0)
            opened = jpeg_factory(stream)
            opened.load()
            self.im, self.fp = opened.im, None
        return super().load()


def plain(data: bytes) -> Plain | None:
    """Opens a plain JPEG: baseline, of 1 or 3 colours in one scan, without notes; None for any other file."""
    if not data.startswith(START) or (frame := _frame(data)) is None:
        return None
    return Plain(data, *frame) if _is_small(frame[1]) else None


def _is_small(size: tuple[int, int]) -> bool:
    width, height = size
    within = max(size) <= limit("picture_side") and width * height <= min(PIXELS, limit("picture_pixels"))
    return within and width > 0 < height


def read(image: Image.Image, min_size: int | None = None) -> Pixels | None:
    """Decodes an opened JPEG as it is stored, not turned; None for what is left to Pillow.

    It is shrunk to 1/2, 1/4 or 1/8 while it is decoded, its shorter side never below `min_size`. The image stays as it
    was opened, and keeps what was decoded for others that ask for no more pixels.
    """
    stream: Any = getattr(image, "fp", None)
    if image.format not in ("JPEG", "MPO") or image.mode not in MODES.values() or not isinstance(stream, io.BytesIO):
        return None
    shorter = min(image.size)
    scale = next((each for each in (8, 4, 2) if min_size and shorter >= each * min_size), 1)
    held: dict[int, Pixels] = vars(image).setdefault("decoded", {})
    if not any(each <= scale for each in held) and (isinstance(image, Plain) or _is_small(image.size)):
        array = _decoded(stream.getvalue(), image, scale)
        if array is not None:
            held[scale] = Pixels(array)
    return next((held[each] for each in sorted(held, reverse=True) if each <= scale), None)


def _decoded(data: bytes, image: Image.Image, scale: int) -> np.ndarray | None:
    """Decodes all of a file at 1 / scale, unless it is of another size than Pillow found, or anything is wrong."""
    width, height = (-(-side // scale) for side in image.size)
    if scale > 1 and max(image.size) < 8:  # other eighths have the same size
        return None
    if "progressive" in image.info and data.count(bytes([0xFF, SCAN])) > SCANS:
        return None
    try:
        if not isinstance(image, Plain) and simplejpeg.decode_jpeg_header(data, height, width)[:2] != (height, width):
            return None
        return simplejpeg.decode_jpeg(data, min_height=height, min_width=width)
    except Exception:  # ValueError of libjpeg's warnings, and whatever simplejpeg does not foresee
        return None


def _frame(data: bytes) -> tuple[str, tuple[int, int]] | None:
    """Returns the mode and (width, height) of a plain file, and None for one that has anything else before its scan."""
    at, layers, found = 2, 0, None
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        body = at + 4
        at += 2 + length
        if marker == SCAN:
            whole = at <= len(data) and length == 6 + 2 * layers and data[body] == layers
            return found if whole else None
        if marker == FRAME:
            layers = data[body + 5] if body + 5 < len(data) else 0
            if found or layers not in MODES or length != 8 + 3 * layers or data[body] != 8:
                return None
            size = data[body + 3] << 8 | data[body + 4], data[body + 1] << 8 | data[body + 2]
            found = MODES[layers], size
        elif marker == APP0:
            if length != 16 or not data.startswith(JFIF, body):
                return None
        elif marker == QUANTA:
            if (length - 2) % TABLE or length == 2:
                return None
        elif marker != CODES or length < 2:
            return None
    return None
