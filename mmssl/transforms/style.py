"""Batches of pictures drawn in other styles on the device: contours, fewer tones, other colours, shading,
large pixels, other frames.

What a picture shows stays, how it is drawn changes; each image by amounts of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.numerics.color import as_unit
from mmssl.schema import Positive, above, at_least, at_most, below
from mmssl.transforms.base import Chance, OnDevice, check_range, one
from mmssl.transforms.geometry import rotation, unit_map, warp


class Style(OnDevice):
    """A step on images that changes each with a probability `p`, and leaves the others exactly as they are."""

    modalities = ("image",)
    p: Chance

    def styled(self, x: Tensor) -> Tensor:
        """Returns every image of x (B, 3, H, W), in 0 to 1, in another style."""
        raise NotImplementedError

    def on_device(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = as_unit(x)
        chosen = torch.rand(len(x), device=x.device) < one(self.p)
        return torch.where(chosen[:, None, None, None], self.styled(x).clamp(0, 1), x)

    def active(self) -> bool:
        return one(self.p) > 0


def spread_over(x: Tensor, low: float, high: float, *shape: int) -> Tensor:
    """Draws a number between low and high for each image of x, (B, *shape) or (B, 1, 1, 1)."""
    return torch.empty(len(x), *(shape or (1, 1, 1)), device=x.device).uniform_(low, high)


@dataclass(kw_only=True)
class Contour(Style):
    """Draws dark lines where colours change, as an outlined picture has them.

    A line is as dark as the change is large: the difference between the brightest and the darkest pixel within `width`,
    of whichever channel differs most, times `gain`.

    p: the probability.
    width: of a line to either side of where colours meet, in pixels.
    gain: how many times the difference, at most 1, is the line's darkness; above 1 faint edges are drawn as well.
    strength: range of the darkness of the darkest lines, 1 is black.
    """

    p: Chance = 0.5
    width: Positive = 1
    gain: Annotated[float, above(0)] = 2.0
    strength: tuple[float, float] = (0.3, 1.0)

    def __post_init__(self) -> None:
        check_range("contour.strength", self.strength, 0.0, 1.0)

    def styled(self, x: Tensor) -> Tensor:
        lines = (edges(x, self.width) * self.gain).clamp(max=1)
        return x * (1 - lines * spread_over(x, *self.strength))


def edges(x: Tensor, width: int) -> Tensor:
    """Returns how much images (B, 3, H, W) differ within `width` pixels (B, 1, H, W): the most of any channel."""
    side = 2 * width + 1
    high, low = F.max_pool2d(x, side, 1, width), -F.max_pool2d(-x, side, 1, width)
    return (high - low).amax(dim=1, keepdim=True)


@dataclass(kw_only=True)
class FewTones(Style):
    """Rounds each channel to a few levels, so that gradients become flat.

    p: the probability.
    levels: range of how many there are, black and white among them.
    """

    p: Chance = 0.5
    levels: tuple[int, int] = (2, 6)

    def __post_init__(self) -> None:
        check_range("few_tones.levels", self.levels, 2, 256)

    def styled(self, x: Tensor) -> Tensor:
        steps = spread_over(x, self.levels[0] - 1, self.levels[1]).floor().clamp(max=self.levels[1] - 1)
        return (x * steps).round() / steps


@dataclass(kw_only=True)
class ToneCurves(Style):
    """Takes the tones of each channel through a random curve of its own, so that a palette becomes another.

    A curve is linear between its knots, which are moved up or down from where they change nothing.

    p: the probability.
    knots: of a curve, evenly from black to white; 2 moves black and white alone.
    shift: the most that a knot is moved, either way.
    """

    p: Chance = 0.5
    knots: Annotated[int, at_least(2)] = 4
    shift: Annotated[float, at_least(0), at_most(1)] = 0.4

    def styled(self, x: Tensor) -> Tensor:
        base = torch.linspace(0, 1, self.knots, device=x.device)
        return through(x, base + spread_over(x, -self.shift, self.shift, 3, self.knots))


def through(x: Tensor, heights: Tensor) -> Tensor:
    """Takes each channel of images (B, 3, H, W) through the curve with heights (B, 3, K) at K even knots."""
    place = x.clamp(0, 1) * (heights.shape[2] - 1)
    below_it = place.floor().long().clamp(max=heights.shape[2] - 2)
    share = place - below_it
    low, high = (heights.gather(2, (below_it + more).flatten(2)).view_as(x) for more in (0, 1))
    return low + share * (high - low)


@dataclass(kw_only=True)
class Shading(Style):
    """Makes parts of a picture darker or lighter by a smooth random pattern, as another light or brush would.

    p: the probability.
    cells: of the pattern to a side; few are large patches, many a texture.
    strength: the most that brightness changes, either way, as a share of it.
    """

    p: Chance = 0.5
    cells: Positive = 6
    strength: Annotated[float, at_least(0), at_most(1)] = 0.4

    def styled(self, x: Tensor) -> Tensor:
        pattern = spread_over(x, -self.strength, self.strength, 1, self.cells, self.cells)
        return x * (1 + F.interpolate(pattern, x.shape[-2:], mode="bilinear", align_corners=False))


@dataclass(kw_only=True)
class Pixelate(Style):
    """Shows images as large pixels, each the mean of what lies in it; those at the right and below may be narrower.

    p: the probability.
    size: range of the side of a large pixel, in pixels; it need not be whole.
    """

    p: Chance = 0.5
    size: tuple[float, float] = (2.0, 6.0)

    def __post_init__(self) -> None:
        check_range("pixelate.size", self.size, 1.0, 4096.0)

    def styled(self, x: Tensor) -> Tensor:
        sizes = spread_over(x, *self.size, 1)
        down, across = (means_within(sizes, side) for side in x.shape[2:])
        return down[:, None] @ x @ across[:, None]


def means_within(sizes: Tensor, side: int) -> Tensor:
    """Returns the symmetric maps (B, side, side) that give each place the mean of its part; parts have sizes (B, 1)."""
    part = ((torch.arange(side, device=sizes.device) + 0.5) / sizes).floor()
    same = (part[:, :, None] == part[:, None]).float()
    return same / same.sum(dim=2, keepdim=True)


@dataclass(kw_only=True)
class RandomAffine(OnDevice):
    """Turns, scales, stretches, shears and moves images; what comes in from outside has one brightness.

    p: the probability.
    degrees: the most that it turns, either way.
    scale: range of the size that what is shown has afterwards; below 1 the image stands in a margin.
    stretch: the most by which width over height changes, as a factor either way; 1 keeps it.
    shear: the most that the upper edge moves against the lower one, as a share of the side.
    shift: the most that it moves, either way, as a share of the side.
    fill: brightness of what comes in, from 0 to 1; 1 is white.
    """

    modalities = ("image",)
    p: Chance = 0.8
    degrees: Annotated[float, at_least(0)] = 15.0
    scale: tuple[float, float] = (0.7, 1.1)
    stretch: Annotated[float, at_least(1), below(4)] = 1.2
    shear: Annotated[float, at_least(0), at_most(1)] = 0.2
    shift: Annotated[float, at_least(0), at_most(1)] = 0.1
    fill: Annotated[float, at_least(0), at_most(1)] = 1.0

    def __post_init__(self) -> None:
        check_range("random_affine.scale", self.scale, 0.1, 10.0)

    def on_device(self, x: Tensor) -> tuple[Tensor, Tensor]:
        matrix = self.matrix(x)
        return warp(as_unit(x), matrix, fill=self.fill), unit_map(matrix, x.shape[2:])

    def matrix(self, x: Tensor) -> Tensor:
        """Draws the maps (B, 2, 3) of `warp`, from what is shown to what was given."""
        turn = rotation(spread_over(x, -self.degrees, self.degrees, 1)[:, 0])
        size = spread_over(x, *self.scale, 1)[:, 0]
        stretch = spread_over(x, -1, 1, 1)[:, 0].mul(math.log(self.stretch) / 2).exp()
        shear = spread_over(x, -self.shear, self.shear, 1)[:, 0]
        none = torch.zeros_like(size)
        shape = torch.stack([1 / (size * stretch), shear, none, stretch / size], dim=1).view(-1, 2, 2)
        matrix = torch.cat([turn[:, :, :2] @ shape, 2 * spread_over(x, -self.shift, self.shift, 2, 1)], dim=2)
        keep = torch.rand(len(x), device=x.device) >= one(self.p)
        return torch.where(keep[:, None, None], torch.eye(2, 3, device=x.device), matrix)

    def active(self) -> bool:
        return one(self.p) > 0
