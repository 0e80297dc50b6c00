"""Small baseline JPEGs, decoded in one call of Pillow: opening a file by its plugin takes as long as 32 x 32 pixels do.

Pillow's decoder writes as many values a row as the file's own header says, so the image that it fills must be of that
very size. Only files are taken whose header libjpeg cannot read otherwise: segments without a gap, of the lengths that
they must have, one frame and one scan of all colours. Every other file, and any that does not decode, is left
to Pillow's plugin.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from mmssl.limits import limit

PIXELS, BYTES = 128**2, 2**16  # of what is decoded as it is opened; Pillow itself reads no more bytes at a time
MODES = {1: "L", 3: "RGB"}
START, JFIF = b"\xff\xd8", b"JFIF\x00"
APP0, QUANTA, FRAME, CODES, SCAN = 0xE0, 0xDB, 0xC0, 0xC4, 0xDA  # all markers of a plain file, by their second bytes
TABLE = 65  # bytes of a table of quanta of 8 bits


def read(data: bytes) -> Image.Image | None:
    """Returns a small plain JPEG decoded, its file beside it as an unread one has it, or None for any other file."""
    if len(data) > BYTES or not data.startswith(START):
        return None
    frame = _frame(data)
    if frame is None:
        return None
    mode, (width, height) = frame
    if not 0 < width * height <= min(PIXELS, limit("picture_pixels")) or max(width, height) > limit("picture_side"):
        return None
    image: Any
    try:
        image = Image.frombytes(mode, (width, height), data, "jpeg", mode, "")
    except Exception:  # the plugin tells what is wrong
        return None
    image.format, image.fp = "JPEG", io.BytesIO(data)
    return image


def is_read(image: Image.Image) -> bool:
    """Tells whether an image comes from here with all that it is shown as: in colours, and upright for want of EXIF."""
    return type(image) is Image.Image and image.mode == "RGB" and hasattr(image, "fp")


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
