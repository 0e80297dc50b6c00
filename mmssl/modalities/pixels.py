"""An image's pixels as they were decoded, an array or an image of Pillow's; the other is made where it is needed."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from PIL import Image


class Pixels:
    """RGB of 8 bits, which whoever is given it must not change.

    size: (width, height).
    """

    def __init__(self, decoded: np.ndarray | Image.Image) -> None:
        self._decoded = decoded
        self.size = decoded.size if isinstance(decoded, Image.Image) else (decoded.shape[1], decoded.shape[0])

    @cached_property
    def image(self) -> Image.Image:
        """All of it as an image of Pillow's."""
        return self._decoded if isinstance(self._decoded, Image.Image) else Image.fromarray(self._decoded)

    def cut(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """Returns a box of it as an array (H, W, 3) of its own."""
        if isinstance(self._decoded, Image.Image):
            return np.array(self._decoded.crop((left, top, right, bottom)))
        return self._decoded[top:bottom, left:right].copy()
