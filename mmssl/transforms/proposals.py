"""Boxes of an image that may hold objects, found without labels: they move with the views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from PIL import Image

from mmssl.errors import DamagedError, UserError
from mmssl.schema import at_least
from mmssl.transforms.base import OnSource, check_range


@dataclass(kw_only=True)
class Proposals(OnSource):
    """Makes the field `boxes` of an image, (n, 4) left, top, right, bottom in pixels: those of an object's size.

    Where none is, the whole image is one. About a second of a processor for an image of 500 x 375 pixels by
    "selective_search" (Uijlings et al., IJCV 2013), by OpenCV (`pip install mmssl[proposals]`); boxes that the samples
    hold cost nothing. Filtered as by Wei et al., NeurIPS 2021 (SoCo).

    by: what finds boxes; "given" takes the sample's own field `boxes`.
    ratio: of width over height, the most either way.
    size: range of the square root of the area, over that of the image's.
    min_side: pixels of the shorter side at least.
    """

    field: ClassVar[str] = "boxes"
    kind: ClassVar[str] = "boxes"

    by: Literal["selective_search", "given"] = "selective_search"
    ratio: Annotated[float, at_least(1)] = 3.0
    size: tuple[float, float] = (0.3, 0.8)
    min_side: Annotated[float, at_least(0)] = 32.0

    def __post_init__(self) -> None:
        check_range("proposals.size", self.size, 0.0, 1.0)

    @property
    def changes(self) -> bool:
        return self.by == "given"

    def make(self, image: Image.Image, given: Any) -> np.ndarray:
        boxes = _as_boxes(given) if self.changes else selective_search(image)
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        share = np.sqrt(np.maximum(width * height, 0) / (image.width * image.height))
        kept = (np.minimum(width, height) >= self.min_side) & (share >= self.size[0]) & (share <= self.size[1])
        kept &= (width <= self.ratio * height) & (height <= self.ratio * width)
        return boxes[kept] if kept.any() else np.array([[0.0, 0.0, *image.size]], dtype=np.float32)


def _as_boxes(given: Any) -> np.ndarray:
    try:
        return np.asarray(given, dtype=np.float32).reshape(-1, 4)
    except (TypeError, ValueError):
        raise DamagedError("boxes that are no rows of four numbers", repr(given)[:60]) from None


def selective_search(image: Image.Image) -> np.ndarray:
    """Returns boxes (n, 4) of the image's segments, joined step by step; UserError without OpenCV."""
    try:
        import cv2

        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"selective search needs OpenCV with its contributed modules ({error}); pip install 'mmssl[proposals]', or "
            "say proposals.by=given for boxes that the samples hold"
        ) from None
    cv2.setNumThreads(0)  # a data worker has one processor
    search.setBaseImage(np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1]))
    search.switchToSelectiveSearchFast()
    found = np.asarray(search.process(), dtype=np.float32).reshape(-1, 4)  # left, top, width, height
    boxes = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
    return np.unique(boxes, axis=0)  # OpenCV orders them by C's own random numbers, which no seed of a worker sets
