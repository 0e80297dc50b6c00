"""Pictures: what an encoder is shown, and the random operations that views are made of."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmssl.errors import UserError
from mmssl.modalities import image as pictures
from mmssl.schema import Positive, above, at_most
from mmssl.types import Preprocess

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
# Pictures whose longer side would be more than so many times what is shown are cut before they are scaled, which rounds
# otherwise than scaling first, as torchvision does.
LONGEST = 64


@dataclass
class ImagePreprocess(Preprocess):
    """Resizes a picture (or the middle picture of a clip) and cuts its centre: uint8 (3, size, size).

    resize: "shorter" scales the shorter side to size / crop_ratio and keeps the shape, "squash" scales both.
    """

    modality: ClassVar[str] = "image"

    size: Positive = 224
    resize: Literal["shorter", "squash"] = "shorter"
    interpolation: Interpolation = "bicubic"
    crop_ratio: Annotated[float, above(0), at_most(1)] = 1.0

    def __call__(self, raw: Any) -> Tensor:
        target = max(self.size, math.floor(self.size / self.crop_ratio))
        # Twice the size is decoded, so that the filter, not the JPEG's own shrinking, decides what is seen.
        image = pictures.pixels(opened(raw), min_size=2 * target)
        width, height = (target, target) if self.resize == "squash" else _shorter(image.size, target)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        if max(width, height) > LONGEST * self.size:  # scaled whole, a line of pixels would take gigabytes
            box = _source_box(image.size, (width, height), (left, top, left + self.size, top + self.size))
            return to_tensor(image.resize((self.size, self.size), FILTERS[self.interpolation], box=box))
        image = image.resize((width, height), FILTERS[self.interpolation])
        return to_tensor(image.crop((left, top, left + self.size, top + self.size)))

    def items(self, inputs: Any) -> list[Any]:
        """Takes one picture or several: a list, or a 4-D array (N, H, W, 3) or tensor (N, 3, H, W)."""
        if isinstance(inputs, np.ndarray | Tensor) and inputs.ndim == 4:
            return list(inputs)
        return super().items(inputs)

    def blank(self) -> Tensor:
        return torch.zeros(3, self.size, self.size, dtype=torch.uint8)


def _shorter(size: tuple[int, int], target: int) -> tuple[int, int]:
    width, height = size
    if width <= height:
        return target, int(target * height / width)
    return int(target * width / height), target


def _source_box(
    size: tuple[int, int], scaled: tuple[int, int], box: tuple[int, int, int, int]
) -> tuple[float, float, float, float]:
    """Returns where a box (left, top, right, bottom) of the scaled picture lies in the picture of `size`."""
    across, down = size[0] / scaled[0], size[1] / scaled[1]
    return box[0] * across, box[1] * down, min(box[2] * across, size[0]), min(box[3] * down, size[1])


def opened(raw: Any, *, time: float | None = None) -> Image.Image:
    """Opens a picture; of a clip, the one shown at a time (s), by default in its middle."""
    if hasattr(raw, "frames"):
        return Image.fromarray(raw.frames([raw.duration / 2 if time is None else time])[0])
    return pictures.load(raw)


def to_tensor(image: Image.Image) -> Tensor:
    """Returns uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def random_crop(
    image: Image.Image,
    size: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Interpolation = "bicubic",
) -> Image.Image:
    """Cuts a random box and scales it to RGB (size, size); an unread JPEG is decoded no larger than that needs.

    scale: the box's share of the picture's area. ratio: its width over its height.
    """
    width, height = pictures.size(image)
    left, top, box_width, box_height = random_box(width, height, scale=scale, ratio=ratio)
    needed = math.ceil(size * min(width, height) / min(box_width, box_height))
    image = pictures.pixels(image, min_size=needed)
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + box_width) * across, (top + box_height) * down)
    return image.resize((size, size), FILTERS[interpolation], box=box)


def random_box(
    width: int, height: int, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draws (left, top, width, height); after ten boxes that do not fit, the largest that does, anywhere.

    So the square crops of a wide picture, which are never 90% of its area, still move about.
    """
    for _ in range(10):
        area = width * height * random.uniform(*scale)
        shape = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    shape = min(max(width / height, ratio[0]), ratio[1])
    w, h = max(1, min(width, round(height * shape))), max(1, min(height, round(width / shape)))
    return random.randint(0, width - w), random.randint(0, height - h), w, h


def flip(image: Image.Image) -> Image.Image:
    """Mirrors left and right."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def chance(probability: float) -> bool:
    """Draws yes with a probability."""
    return random.random() < probability


def check_range(name: str, value: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    """Returns an option that is an ascending pair within bounds, or raises UserError."""
    if not low <= value[0] <= value[1] <= high:
        raise UserError(f"{name} is {value}; expected two ascending numbers from {low} to {high}")
    return value
