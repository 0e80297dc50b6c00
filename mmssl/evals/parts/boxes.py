"""Images with the objects in them, as COCO annotates them, scaled whole into a square."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmssl.errors import DamagedError
from mmssl.evals.parts.report import require
from mmssl.modalities import image as pictures
from mmssl.transforms.image import FILTERS, opened, to_tensor
from mmssl.types import Preprocess, Ragged, Sample, View

Category = str | int


@dataclass(slots=True)
class Annotated:
    """An object: its category, its box (left, top, right, bottom) in pixels, its outline, whether it is a crowd."""

    category: Category
    box: tuple[float, float, float, float]
    outline: Any
    crowd: bool


class Boxed(View):
    """Shows an image whole, its longer side scaled to `size` and black below or beside it: (3, size, size) uint8.

    fields: boxes (n, 4) left, top, right, bottom in pixels of that square; labels (n,) from 1; crowd (n,), objects that
    are neither learnt nor judged, such as crowds; masks (n, size, size) where they are asked for.

    key: of the sample, under which the annotations stand: a list of mappings with `bbox` (left, top, width, height) and
        `category` or `category_id`, for masks `segmentation` as well: polygons or run lengths.
    categories: in the order of their labels.
    flip: probability of mirroring.
    Raises DamagedError for annotations of another kind.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        size: int,
        key: str,
        categories: Sequence[Category],
        masks: bool = False,
        flip: float = 0.0,
    ) -> None:
        super().__init__({"image": preprocess})
        self.field, self.key, self.size, self.masks, self.flip = preprocess.field, key, size, masks, flip
        self.labels = {category: number for number, category in enumerate(categories, 1)}
        self.reads = (self.field, key)
        self.filter = FILTERS[getattr(preprocess, "interpolation", "bilinear")]

    def __call__(self, sample: Sample) -> Sample:
        raw, given = require(sample, self.field, self.key)
        picture = pictures.pixels(opened(raw))
        width, height = picture.size
        factor = self.size / max(width, height)
        across, down = max(1, round(width * factor)), max(1, round(height * factor))
        mirrored = random.random() < self.flip
        x = torch.zeros(3, self.size, self.size, dtype=torch.uint8)
        shown = to_tensor(picture.resize((across, down), self.filter))
        x[:, :down, :across] = shown.flip(2) if mirrored else shown
        things = annotated(given)
        boxes = torch.tensor([thing.box for thing in things], dtype=torch.float32).view(-1, 4)
        boxes = boxes * torch.tensor([across / width, down / height] * 2)
        boxes = torch.stack([boxes[:, 0::2].clamp(0, across), boxes[:, 1::2].clamp(0, down)], 2).flatten(1)
        if mirrored:
            boxes[:, 0::2] = across - boxes[:, 0::2].flip(1)
        kept = ((boxes[:, 2:] - boxes[:, :2]).amin(dim=1) > 0).nonzero()[:, 0].tolist()
        fields = {
            "boxes": boxes[kept],
            "labels": torch.tensor([self.labels[things[n].category] for n in kept], dtype=torch.long),
            "crowd": torch.tensor([things[n].crowd for n in kept], dtype=torch.bool),
        }
        if self.masks:
            masks = torch.zeros(len(kept), self.size, self.size, dtype=torch.uint8)
            for row, number in zip(masks, kept, strict=True):
                inside = Image.fromarray(filled(things[number].outline, height, width))
                mask = torch.from_numpy(np.array(inside.resize((across, down), Image.Resampling.NEAREST)))
                row[:down, :across] = mask.flip(1) if mirrored else mask
            fields["masks"] = masks
        return {"image": [x], "fields": {"image": {name: [Ragged.pack([rows])] for name, rows in fields.items()}}}


def annotated(given: Any) -> list[Annotated]:
    """Returns the objects of an image's annotations; DamagedError for what is no such list."""
    if not isinstance(given, list) or not all(isinstance(thing, dict) for thing in given):
        raise DamagedError("annotations that are not a list of mappings", f"{given!r:.60}")
    return [_annotated(thing) for thing in given]


def _annotated(thing: Mapping[str, Any]) -> Annotated:
    category, box = thing.get("category", thing.get("category_id")), thing.get("bbox")
    if isinstance(category, bool) or not isinstance(category, str | int):
        raise DamagedError("an annotation without category or category_id", f"{category!r:.60}")
    if not (isinstance(box, list) and _numbers(box) and len(box) == 4):
        raise DamagedError("an annotation whose bbox is not left, top, width, height", f"{box!r:.60}")
    left, top, width, height = map(float, box)
    return Annotated(
        category, (left, top, left + width, top + height), thing.get("segmentation"), bool(thing.get("iscrowd"))
    )


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**31 for value in values
    )


def filled(outline: Any, height: int, width: int) -> np.ndarray:
    """Returns an outline as (height, width) uint8, 1 inside: polygons, or run lengths plain or as COCO's text."""
    if isinstance(outline, dict):
        if outline.get("size") != [height, width]:
            raise DamagedError("an outline of another size than its image", f"{outline.get('size')!r:.40}")
        counts = outline.get("counts")
        return _run(lengths(counts) if isinstance(counts, str) else counts, height, width)
    if not (isinstance(outline, list) and outline and all(_numbers(part) for part in outline)):
        raise DamagedError("an outline that is neither polygons nor run lengths", f"{outline!r:.60}")
    if any(len(part) < 6 or len(part) % 2 for part in outline):
        raise DamagedError("a polygon of fewer than three corners")
    from pycocotools import mask as coco

    limits = np.array([width, height] * 2)
    parts = [np.clip(np.reshape(part, (-1, 2)), 0, limits[:2]).ravel().tolist() for part in outline]
    merged = coco.merge(coco.frPyObjects(parts, height, width))
    return _run(lengths(merged["counts"].decode()), height, width)


def _run(counts: Any, height: int, width: int) -> np.ndarray:
    """Returns run lengths of 0 and 1 in turn, column by column, as (height, width)."""
    if not _numbers(counts) or any(count < 0 for count in counts) or sum(counts) != height * width:
        raise DamagedError("run lengths that do not fill the image", f"{counts!r:.60}")
    inside = np.repeat(np.arange(len(counts)) % 2, np.array(counts, np.int64))
    return np.ascontiguousarray(inside.reshape(width, height).T.astype(np.uint8))


def lengths(text: str) -> list[int]:
    """Returns the run lengths that COCO writes as text: five bits a letter, and from the third on differences to the
    length two before.
    """
    found: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise DamagedError("run lengths that COCO does not write", f"{text:.40}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value = shift = 0
    return found
