"""Pictures: JPEG, PNG and WebP through Pillow, decoded no larger than needed."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import read_file

EXTENSIONS = ("jpg", "jpeg", "png", "webp")

# Only these: Pillow's rarer readers are slow, and some start other programs.
FORMATS = ("JPEG", "PNG", "WEBP")

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
    """Opens a picture without decoding its pixels; the bytes say what it is, whatever the extension claims."""
    return _guarded(lambda: Image.open(io.BytesIO(data), formats=FORMATS))


def load(raw: Any) -> Image.Image:
    """Opens a PIL image, a path, bytes, an array (H, W), (H, W, 1 | 3) or a tensor (1 | 3, H, W).

    Arrays and tensors are uint8, or float in [0, 1].
    """
    if isinstance(raw, Image.Image):
        return raw
    if isinstance(raw, str | Path):
        return decode(read_file(raw))
    if isinstance(raw, bytes | bytearray | memoryview):
        return decode(bytes(raw))
    if isinstance(raw, torch.Tensor):
        raw = raw.detach().cpu()
        raw = raw.movedim(0, -1).numpy() if raw.ndim == 3 else raw.numpy()
    if not isinstance(raw, np.ndarray):
        raise UserError(f"expected a picture (path, bytes, PIL image, array or tensor), found {type(raw).__name__}")
    return _from_array(raw)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3) or 0 in array.shape:
        raise UserError(f"expected a picture (H, W), (H, W, 3) or a tensor (3, H, W), found shape {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise UserError("expected a float picture in [0, 1]; scale it, or give uint8")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"expected a picture of uint8 or float, found {array.dtype}")
    return Image.fromarray(np.ascontiguousarray(array))


def size(image: Image.Image) -> tuple[int, int]:
    """Returns (width, height) as the picture is meant to be seen, without decoding it."""
    return image.size[::-1] if _orientation(image) >= 5 else image.size


def pixels(image: Image.Image, *, min_size: int | None = None) -> Image.Image:
    """Decodes to upright RGB; a JPEG is shrunk while decoding, its shorter side never below `min_size`.

    The given image stays unread, so several crops may each decode at the scale they need.
    Raises DamagedError for pictures that are truncated or damaged.
    """
    return _guarded(lambda: _pixels(image, min_size))


def _pixels(image: Image.Image, min_size: int | None) -> Image.Image:
    turn = TURNS.get(_orientation(image))
    if min_size is not None:
        image = _shrunk(image, min_size)
    image.load()
    image = to_rgb(image)
    return image.transpose(turn) if turn is not None else image


def _shrunk(image: Image.Image, min_size: int) -> Image.Image:
    """Opens a second view of an unread JPEG, set to decode at 1/2, 1/4 or 1/8; draft changes an image for good."""
    stream = getattr(image, "fp", None)
    if image.format not in ("JPEG", "MPO") or stream is None or min(image.size) < 2 * min_size:
        return image
    stream.seek(0)
    again = Image.open(stream, formats=("JPEG",))
    again.draft(None, (min_size, min_size))
    return again


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged notes about a picture do not damage the picture
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB: 16-bit grey is scaled down, what is transparent shows white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _guarded(work: Callable[[], Image.Image]) -> Image.Image:
    """Runs Pillow quietly, and turns whatever its parsers trip over into DamagedError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work()
    except Image.UnidentifiedImageError:
        raise DamagedError("not a JPEG, PNG or WebP picture") from None
    except Image.DecompressionBombError as error:
        raise DamagedError("a picture too large to decode", str(error)) from None
    except Exception as error:  # OSError, SyntaxError, struct.error, zlib.error, IndexError, ...
        raise DamagedError("damaged picture", str(error)) from None


def encode(image: Any, *, format: str = "jpeg", quality: int = 90) -> bytes:
    """Writes anything that `load` takes as JPEG, PNG or WebP bytes; quality (1 to 100) counts for JPEG and WebP."""
    formats = {"jpeg": "JPEG", "jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
    if format not in formats:
        raise UserError(f"cannot write a picture as {format!r}; known: {', '.join(formats)}")
    picture = load(image)
    if formats[format] == "JPEG" and picture.mode not in ("L", "RGB"):
        picture = to_rgb(picture)
    stream = io.BytesIO()
    picture.save(stream, formats[format], quality=quality)
    return stream.getvalue()
