"""Decoded pixels are the same as an array and as an image of Pillow's, and a box of them is a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmssl.modalities.pixels import Pixels

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("held", [NOISE.copy(), Image.fromarray(NOISE)])
def test_both_forms_are_one(held: Any) -> None:
    pixels = Pixels(held)
    assert pixels.size == (30, 20)
    cut = pixels.cut(3, 2, 17, 11)
    assert np.array_equal(cut, NOISE[2:11, 3:17])
    cut[:] = 0
    assert np.array_equal(np.asarray(pixels.image), NOISE)
    assert np.array_equal(pixels.cut(0, 0, 30, 20), NOISE)
