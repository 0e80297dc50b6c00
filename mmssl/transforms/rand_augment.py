"""RandAugment of whole batches on the device: each image is changed by operations of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.numerics.color import LUMA, as_unit
from mmssl.numerics.constants import constant, sent
from mmssl.numerics.geometry import compose
from mmssl.transforms.base import OnDevice
from mmssl.transforms.geometry import rotation, unit_map, warp

FILL = 0.45  # what moves in from outside, about ImageNet's mean
Operation = Callable[[Tensor, Tensor], Tensor]  # images (B, 3, H, W) in [0, 1] and strengths (B,) in [0, 1]


@dataclass(kw_only=True)
class RandAugment(OnDevice):
    """Changes each image by operations of its own, each with a probability of a half. Cubuk et al., NeurIPS 2020.

    operations: how many are drawn for each image.
    magnitude: how strong they are, 0 to 10.
    """

    modalities = ("image",)
    operations: int = 2
    magnitude: float = 10.0

    def __post_init__(self) -> None:
        if self.operations < 1 or not 0 <= self.magnitude <= 10:
            raise UserError(
                f"rand_augment's operations is {self.operations} and magnitude {self.magnitude}; expected at least 1, "
                "and 0 to 10; null leaves it out"
            )

    def on_device(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return rand_augment(x, operations=self.operations, magnitude=self.magnitude)


def rand_augment(
    x: Tensor, *, operations: int = 2, magnitude: float = 10.0, spread: float = 0.5, share: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Draws `operations` of the fifteen for each image (B, 3, H, W), and does each with probability `share`.

    Returns the images and the maps (B, 2, 3), in 0 to 1, from what they show to what was given.
    magnitude: their mean strength, 0 to 10; spread: its deviation. Cubuk et al., NeurIPS 2020, as timm has it.
    """
    x = as_unit(x)
    place = torch.eye(2, 3, device=x.device).repeat(len(x), 1, 1)
    for _ in range(operations):
        chosen = torch.randint(len(OPERATIONS), (len(x),))  # on the host, which so knows how many there are of each
        chosen = chosen.masked_fill(torch.rand(len(x)) >= share, -1)
        strength = ((magnitude + spread * torch.randn(len(x), device=x.device)) / 10).clamp(0, 1)
        many = torch.bincount(chosen + 1, minlength=1 + len(OPERATIONS)).tolist()
        _, *each = sent(chosen.argsort(stable=True), x.device).split(many)
        for rows, change in zip(each, OPERATIONS.values(), strict=True):
            if not len(rows):
                continue
            if isinstance(change, Warp):
                matrix = change.matrix(strength[rows])
                changed = warp(x[rows], matrix, fill=FILL)
                place = place.index_copy(0, rows, compose(unit_map(matrix, x.shape[2:]), place[rows]))
            else:
                changed = change(x[rows], strength[rows])
            x = x.index_copy(0, rows, changed.clamp(0, 1).to(x.dtype))
    return x, place


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _signed(strength: Tensor) -> Tensor:
    return torch.where(torch.rand_like(strength) < 0.5, -strength, strength)


def _gray(x: Tensor) -> Tensor:
    return torch.einsum("bchw,c->bhw", x, constant(LUMA, x.device).to(x.dtype))[:, None]


def auto_contrast(x: Tensor, _strength: Tensor) -> Tensor:
    """Stretches each channel from black to white."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=1e-6), x)


def equalize(x: Tensor, _strength: Tensor) -> Tensor:
    """Makes all of 256 levels of each channel equally frequent."""
    levels = (x * 255).round().long().flatten(2)  # (B, 3, P)
    counts = torch.zeros(*x.shape[:2], 256, device=x.device).scatter_add_(2, levels, torch.ones_like(x.flatten(2)))
    below = counts.cumsum(dim=2) - counts
    brightest = counts.gather(2, levels.amax(dim=2, keepdim=True))
    step = ((levels.shape[2] - brightest) / 255).floor()  # pixels a level, in whole numbers as PIL counts
    table = ((step / 2).floor() + below).div(step.clamp(min=1)).floor().clamp(max=255) / 255
    table = torch.where(step > 0, table, torch.linspace(0, 1, 256, device=x.device))
    return table.gather(2, levels).view_as(x)


def posterize(x: Tensor, strength: Tensor) -> Tensor:
    """Keeps up to the four highest bits of each channel; none, black, where the strength is 0."""
    steps = 2.0 ** (_wide(strength) * 4).floor()
    return (x * 255 / 256 * steps).floor() / steps * 256 / 255


def solarize(x: Tensor, strength: Tensor) -> Tensor:
    """Inverts what is brighter than the strength."""
    return torch.where(x >= _wide(strength), 1 - x, x)


def solarize_add(x: Tensor, strength: Tensor) -> Tensor:
    """Brightens the darker half of the levels by up to 110 of 255."""
    return torch.where(x < 0.5, x + _wide(strength) * 110 / 255, x)


def _enhance(towards: Callable[[Tensor], Tensor]) -> Operation:
    """Moves images from what `towards` makes of them, by a factor of 0.1 (near it) to 1.9 (away from it)."""

    def change(x: Tensor, strength: Tensor) -> Tensor:
        plain = towards(x)
        return plain + _wide(0.1 + 1.8 * strength) * (x - plain)

    return change


def _smooth(x: Tensor) -> Tensor:
    """Averages each pixel with its neighbours, itself five times; the border stays."""
    kernel = x.new_ones(3, 3)
    kernel[1, 1] = 5
    inner = F.conv2d(x, (kernel / 13).expand(3, 1, 3, 3), groups=3)
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = inner
    return smooth


@dataclass(frozen=True)
class Warp:
    """An operation that moves pixels: the maps (B, 2, 3) of `warp`, given strengths (B,)."""

    matrix: Callable[[Tensor], Tensor]


def _move(column: int, row: int, most: float) -> Warp:
    """Adds up to `most`, either way, to one entry of the affine map: a shear or a move."""

    def matrix(strength: Tensor) -> Tensor:
        found = torch.eye(2, 3, device=strength.device).repeat(len(strength), 1, 1)
        found[:, row, column] += most * _signed(strength)
        return found

    return Warp(matrix)


OPERATIONS: dict[str, Operation | Warp] = {
    "auto_contrast": auto_contrast,
    "equalize": equalize,
    "invert": lambda x, _: 1 - x,
    "rotate": Warp(lambda strength: rotation(30 * _signed(strength))),
    "posterize": posterize,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "color": _enhance(_gray),
    "contrast": _enhance(lambda x: _gray(x).mean((2, 3), keepdim=True)),
    "brightness": _enhance(torch.zeros_like),
    "sharpness": _enhance(_smooth),
    "shear_x": _move(1, 0, 0.3),
    "shear_y": _move(0, 1, 0.3),
    "translate_x": _move(2, 0, 0.9),  # of half a side
    "translate_y": _move(2, 1, 0.9),
}
