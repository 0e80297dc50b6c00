"""Images: JPEG, PNG, WebP, BMP, TIFF and GIF through Pillow, decoded no larger than needed.

Of several pages or frames the first is read. Every image becomes RGB of 8 bits by one rule, whether it comes from a
file, a PIL image, an array or a tensor:
8 bits or fewer   as they are; palettes, CMYK, YCbCr, LAB and HSV as Pillow converts them; what is clear shows white
16 bits           the high byte, as Pillow itself has it in 16-bit colour: I;16, uint16
float             from 0 to 1, times 255: F, float16, float32, float64
wider integers    from 0 to 255, as they are: I, int16, int32, int64, ...
Values outside these ranges are refused: DamagedError where they come from a file, UserError where a caller made them.
`values` returns the numbers as they are stored: depth, masks.
The limits picture_pixels and picture_side hold for what the header claims, before any pixel is read; a JPEG that is
shrunk while decoding counts as it is decoded, unless its scans are several, which libjpeg holds whole.
"""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import jpeg_factory

from mmssl.errors import DamagedError, UserError
from mmssl.limits import check, limit
from mmssl.modalities import jpeg, read_file
from mmssl.modalities.pixels import Pixels

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif")

# Only these: Pillow's rarer readers are slow, and some start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

DAMAGE = "mmssl damage"  # where an image's info keeps why its pixels could not be read
TOO_LARGE = "an image too large to decode"
STRIP = 2**20  # pixels that are converted at a time: whole images would take five times what they hold

T = TypeVar("T")
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, extension: str = "") -> Image.Image:
    """Opens an image, unread; the bytes say what it is, whatever the extension claims."""
    plain = jpeg.plain(data)
    return _guarded(lambda: _opened(io.BytesIO(data))) if plain is None else plain


def _opened(stream: io.BytesIO) -> Image.Image:
    """Reads a header. Pillow refuses what is too large, but a JPEG can still be decoded smaller than it claims."""
    try:
        return Image.open(stream, formats=FORMATS)
    except Image.DecompressionBombError:
        if not stream.getvalue().startswith(b"\xff\xd8\xff"):
            raise
        stream.seek(0)
        return jpeg_factory(stream)


def load(raw: Any) -> Image.Image:
    """Opens a PIL image, a path, bytes, an array (H, W), (H, W, 1 | 3) or a tensor (1 | 3, H, W).

    Arrays and tensors are uint8, uint16, float in [0, 1], bool, or wider integers from 0 to 255.
    """
    if isinstance(raw, Image.Image):
        return raw
    if isinstance(raw, str | Path):
        return decode(read_file(raw))
    if isinstance(raw, bytes | bytearray | memoryview):
        return decode(bytes(raw))
    if isinstance(raw, torch.Tensor):
        raw = raw.detach().cpu()
        raw = raw.float() if raw.dtype == torch.bfloat16 else raw
        raw = raw.movedim(0, -1).numpy() if raw.ndim == 3 else raw.numpy()
    if not isinstance(raw, np.ndarray):
        raise UserError(f"expected an image (path, bytes, PIL image, array or tensor), found {type(raw).__name__}")
    return _from_array(raw)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3) or 0 in array.shape:
        raise UserError(f"expected an image (H, W), (H, W, 3) or a tensor (3, H, W), found shape {array.shape}")
    if _is_16_bit(array) and array.ndim == 2:  # Pillow holds these as they are, so that `values` finds them again
        return Image.fromarray(np.ascontiguousarray(array))
    return Image.fromarray(np.ascontiguousarray(_eight_bits(array)))


def _is_16_bit(array: np.ndarray) -> bool:
    return array.dtype.kind == "u" and array.dtype.itemsize == 2


def _eight_bits(array: np.ndarray) -> np.ndarray:
    """Brings numbers of any type to uint8 by the rule above; UserError for those outside it."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if _is_16_bit(array):
        return (array >> 8).astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise UserError(f"expected an image of numbers, found {array.dtype}")
    top = 1 if array.dtype.kind == "f" else 255
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= top):
        found = f"{array.dtype} from {low:g} to {high:g}"
        raise UserError(f"expected an image of {array.dtype} in [0, {top}], found {found}; scale it, or give uint8")
    return (array * 255).round().astype(np.uint8) if top == 1 else array.astype(np.uint8)


def size(image: Image.Image) -> tuple[int, int]:
    """Returns (width, height) as the image is meant to be seen, without decoding a JPEG or WebP.

    Raises DamagedError where the other formats, whose orientation may stand behind the pixels, are damaged.
    """
    if image.format not in ("JPEG", "MPO", "WEBP"):
        _guarded(lambda: _load(image))
    return image.size[::-1] if _orientation(image) >= 5 else image.size


def pixels(image: Image.Image, *, min_size: int | None = None) -> Image.Image:
    """Decodes to upright RGB; a JPEG is shrunk while decoding, its shorter side never below `min_size`.

    The given image stays unread, so several crops may each decode at the scale they need.
    Raises DamagedError for images that are truncated or damaged.
    """
    return decoded(image, min_size=min_size).image


def decoded(image: Image.Image, *, min_size: int | None = None) -> Pixels:
    """Decodes as `pixels` does, to what is an array where it is decoded as one."""
    found = jpeg.read(image, min_size)
    if found is None:
        return Pixels(_guarded(lambda: _pixels(image, min_size)))
    turned = _orientation(image) in TURNS
    return Pixels(_upright(found.image, image)) if turned else found


def _pixels(image: Image.Image, min_size: int | None) -> Image.Image:
    seen = image if min_size is None else _shrunk(image, min_size)
    _load(seen)
    return _upright(to_rgb(seen), image)


def values(image: Image.Image) -> np.ndarray:
    """Returns the numbers as they are stored, upright: (H, W), or (H, W, C) where there are several channels.

    16-bit grey is uint16 (depth in mm, say), palettes are their indices, 1 bit is bool; 16-bit colour is 8 bits, for
    Pillow reads no more of it. Raises DamagedError as `pixels` does.
    """
    return _guarded(lambda: _values(image))


def _values(image: Image.Image) -> np.ndarray:
    _load(image)
    found = np.asarray(_upright(image, image))
    return found.astype(found.dtype.newbyteorder("="))


def _load(image: Image.Image) -> None:
    """Reads the pixels; asked a second time, Pillow itself takes what it read of a damaged image for the whole."""
    if DAMAGE in image.info:
        raise OSError(image.info[DAMAGE])
    _check_size(image)
    try:
        image.load()
    except Exception as error:
        image.info[DAMAGE] = str(error)
        raise


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    check("picture_side", max(width, height), TOO_LARGE, f"{width} x {height}")
    check("picture_pixels", width * height, TOO_LARGE, f"{width} x {height}")


def _shrunk(image: Image.Image, min_size: int) -> Image.Image:
    """Opens a second view of an unread JPEG, set to decode at 1/2, 1/4 or 1/8; draft changes an image for good."""
    stream = getattr(image, "fp", None)
    if image.format not in ("JPEG", "MPO") or stream is None or min(image.size) < 2 * min_size:
        return image
    stream.seek(0)
    again = _opened(stream)
    if not _in_one_scan(again):
        _check_size(again)
    again.draft(None, (min_size, min_size))
    return again


def _in_one_scan(image: Any) -> bool:
    """Tells whether the scan that follows a JPEG's header holds all colours, and no other scan refines them."""
    if "progressive" in image.info:
        return False
    at, colors = image.fp.tell(), image.layers
    image.fp.seek(max(0, at - 2 * colors - 8))
    head = image.fp.read(at - image.fp.tell())  # marker, length, how many colours
    return bool(head[:5] == bytes([0xFF, 0xDA, 0, 2 * colors + 6, colors]))


def _upright(picture: Image.Image, image: Image.Image) -> Image.Image:
    """Turns an image as the notes of the image say; a TIFF has turned itself when it was loaded."""
    turn = TURNS.get(_orientation(image))
    return picture if turn is None else picture.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation; the pixels must be loaded before, or Pillow loads a PNG in here."""
    if isinstance(image, jpeg.Plain):  # which has no notes
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged notes about an image do not damage the image
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB by the rule above."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    width, height = image.size
    rgb, rows = Image.new("RGB", image.size), max(1, STRIP // max(1, width))
    try:
        for top in range(0, height, rows):
            rgb.paste(_to_rgb(image.crop((0, top, width, min(top + rows, height)))), (0, top))
    except UserError as error:
        if image.format is None:  # a caller made it
            raise
        raise DamagedError("an image of numbers out of range", str(error)) from None
    return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_grey(image)).convert("RGB")
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _grey(image: Image.Image) -> np.ndarray:
    """Returns grey of more than 8 bits as uint8; what is clear shows white."""
    array = np.asarray(image)
    grey = _eight_bits(array)
    clear = image.info.get("transparency")
    return np.where(array == clear, np.uint8(255), grey) if isinstance(clear, int) else grey


class _Bounded:
    """Makes Pillow's own limit ours while images are read, in however many threads, and then gives it back."""

    def __init__(self) -> None:
        self.lock, self.readers, self.before = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        with self.lock:
            if not self.readers:
                self.before = Image.MAX_IMAGE_PIXELS
            self.readers += 1
            Image.MAX_IMAGE_PIXELS = int(limit("picture_pixels") / 2)  # it warns of one, and refuses twice as many

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.readers -= 1
            if not self.readers:
                Image.MAX_IMAGE_PIXELS = self.before


_bounded = _Bounded()


def _guarded(work: Callable[[], T]) -> T:
    """Runs Pillow quietly, and turns whatever its parsers trip over into DamagedError."""
    try:
        with warnings.catch_warnings(), _bounded:
            warnings.simplefilter("ignore")
            return work()
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        raise DamagedError("not an image that can be read as JPEG, PNG, WebP, BMP, TIFF or GIF") from None
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))
        check("picture_pixels", float(found[0]) if found else math.inf, TOO_LARGE)
        raise DamagedError(TOO_LARGE, str(error)) from None
    except Exception as error:  # OSError, SyntaxError, struct.error, zlib.error, IndexError, ...
        raise DamagedError("damaged image", str(error)) from None


# What each format holds as it is; everything else is written as RGB.
WRITES = {
    "JPEG": ("L", "RGB"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
}


def encode(image: Any, *, format: str = "jpeg", quality: int = 90) -> bytes:
    """Writes anything that `load` takes, upright, as JPEG, PNG (which keeps 16-bit grey) or WebP bytes.

    quality: 1 to 100, counts for JPEG and WebP.
    """
    formats = {"jpeg": "JPEG", "jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
    if format not in formats:
        raise UserError(f"cannot write an image as {format!r}; known: {', '.join(formats)}")
    picture = load(image)
    _guarded(lambda: _load(picture))
    picture = _upright(picture if picture.mode in WRITES[formats[format]] else to_rgb(picture), picture)
    stream = io.BytesIO()
    picture.save(stream, formats[format], quality=quality)
    return stream.getvalue()
