"""Pictures to measure with: smooth noise with fine grain, whose JPEGs are as large as photographs'."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import simplejpeg
from PIL import Image

DECODING = "decoding by libjpeg-turbo alone"  # the bound of whatever shows all of a JPEG at its size


def photograph(number: int, *, width: int = 500, height: int = 375, quality: int = 95, grain: float = 9) -> bytes:
    """Returns a JPEG, of some 110 KB by default."""
    random = np.random.default_rng(number)
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    picture = np.clip(smooth + random.normal(0, grain, smooth.shape), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def small(number: int) -> bytes:
    """Returns a JPEG of 32 pixels, of some 1.2 KB, as CIFAR's are."""
    return photograph(number, width=32, height=32, quality=95, grain=5)


def once(make: Callable[[int], bytes], count: int) -> list[bytes]:
    """Makes several."""
    return [make(number) for number in range(count)]


def decoding(pictures: Sequence[bytes]) -> Callable[[], int]:
    """Returns what decodes JPEGs and nothing else; it returns how many."""
    return lambda: len([simplejpeg.decode_jpeg(data) for data in pictures])
