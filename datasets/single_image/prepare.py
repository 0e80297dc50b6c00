"""Makes shards of crops of one large image, to train any method on: prepare.py OUT --image FILE [--count 1281167]."""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms import ColorJitter, InterpolationMode
from torchvision.transforms import functional as F

from mmssl.data.writer import build_from, summary
from mmssl.errors import UserError
from mmssl.modalities import image as images

RATIO = (3 / 4, 4 / 3)  # of a crop's width to its height
TRIES = 1000
COLORS = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


def main(arguments: list[str] | None = None) -> int:
    """Writes the shards; an interrupted run continues where it stopped."""
    options = parser().parse_args(arguments)
    crops = Crops(
        options.image, options.size, options.first, 1 / options.smallest, options.degrees, options.shear, options.seed
    )
    try:
        crops.check()
        index = build_from(crops, options.count, options.out, workers=options.workers, description=f"{crops}")
        print(f"{options.out}: {summary(index)}")
    except UserError as error:
        print(f"single_image: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Returns the command line; its defaults are those of the authors' code."""
    command = argparse.ArgumentParser(
        description="Makes shards of crops of one large image.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    command.add_argument("out", metavar="OUT", help="folder for the shards")
    command.add_argument("--image", required=True, help="the image, of some megapixels and full of things")
    command.add_argument("--count", type=int, default=1_281_167, help="of crops, by default as many as ImageNet has")
    command.add_argument("--size", type=int, default=256, help="side of a crop in pixels")
    command.add_argument("--first", type=float, default=0.5, help="side of a first square crop, of the shorter side")
    command.add_argument("--smallest", type=float, default=500, help="times that it may be larger than the second crop")
    command.add_argument("--degrees", type=float, default=30, help="by which a crop is turned at most")
    command.add_argument("--shear", type=float, default=30, help="degrees by which it is sheared at most")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--workers", type=int, help="processes, by default one a core")
    return command


@dataclass(frozen=True)
class Crops:
    """Makes the crop of a number. Asano et al., ICLR 2020 (A critical analysis of self-supervision).

    A square is cut out anywhere, of it a part of any scale and shape, which is resized, turned and sheared; its centre
    stays, and the colours of half of them change.
    """

    file: str
    size: int
    first: float
    least: float
    degrees: float
    shear: float
    seed: int

    def check(self) -> None:
        """Raises UserError for an image that cannot be read or is too small, and for options out of range."""
        side = round(self.first * min(opened(self.file).size))
        if not (0 < self.first <= 1 and 0 < self.least <= 1 and self.size > 0) or min(self.degrees, self.shear) < 0:
            raise UserError(f"{self}: expected 0 < first <= 1, smallest of at least 1, and no angle below 0")
        if side * math.sqrt(self.least) < 4:
            raise UserError(
                f"{self.file} is too small: the smallest crop would have {side * math.sqrt(self.least):.1f} px"
            )

    def __call__(self, number: int) -> dict[str, bytes]:
        random, picture = np.random.default_rng([self.seed, number]), opened(self.file)
        side = round(self.first * min(picture.size))
        left, top = (int(random.integers(0, length - side + 1)) for length in picture.size)
        inner = self.part(random, side)
        box = (left + inner[0], top + inner[1], left + inner[0] + inner[2], top + inner[1] + inner[3])
        large = int(math.sqrt(2) * self.size)  # so that a turn by 45 degrees keeps the centre filled
        crop = picture.crop(box).resize((large, large), Image.Resampling.BICUBIC)
        angle, shear = random.uniform(-self.degrees, self.degrees), random.uniform(-self.shear, self.shear)
        crop = F.affine(crop, angle, [0, 0], 1.0, [shear, 0.0], interpolation=InterpolationMode.BILINEAR)
        crop = self.colored(random, F.center_crop(crop, [self.size, self.size]))
        stream = io.BytesIO()
        crop.save(stream, "JPEG", quality=95)
        return {"jpg": stream.getvalue(), "json": json.dumps({"file": Path(self.file).name, "box": box}).encode()}

    def part(self, random: np.random.Generator, side: int) -> tuple[int, int, int, int]:
        """Draws left, top, width and height of a part of a square, of any share of its area."""
        for _ in range(TRIES):
            area = side**2 * random.uniform(self.least, 1)
            ratio = math.exp(random.uniform(*map(math.log, RATIO)))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= side and 0 < height <= side:
                left, top = (int(random.integers(0, side - length + 1)) for length in (width, height))
                return left, top, width, height
        return 0, 0, side, side

    @staticmethod
    def colored(random: np.random.Generator, crop: Image.Image) -> Image.Image:
        """Changes the colours of half of the crops, in any order."""
        if random.random() < 0.5:
            return crop
        changes = (
            (F.adjust_brightness, random.uniform(*COLORS.brightness)),
            (F.adjust_contrast, random.uniform(*COLORS.contrast)),
            (F.adjust_saturation, random.uniform(*COLORS.saturation)),
            (F.adjust_hue, random.uniform(*COLORS.hue)),
        )
        for place in random.permutation(len(changes)):
            change, factor = changes[place]
            crop = change(crop, factor)
        return crop


@cache
def opened(file: str) -> Image.Image:
    """Returns the image, decoded once in each process."""
    if not Path(file).is_file():
        raise UserError(f"there is no file {file}")
    return images.load(file).convert("RGB")


if __name__ == "__main__":
    sys.exit(main())
