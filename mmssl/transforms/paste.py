"""Images pasted onto other images, on the device: where the foreground then is, is known."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.numerics.color import as_unit
from mmssl.transforms.base import OnBatch, check_range
from mmssl.types import Batch, Ragged


@dataclass(kw_only=True)
class Paste(OnBatch):
    """Pastes each view of the first half onto another sample's of the second half, and tells where: field `boxes`.

    The foreground keeps the shape that it was cut with, and lies anywhere. Yang et al., CVPR 2021 (InsLoc).

    size: range of the two numbers that its longer and shorter side must fit in, over the background's side.
    """

    size: tuple[float, float] = (0.5, 1.0)

    def __post_init__(self) -> None:
        check_range("paste.size", self.size, 0.05, 1.0)

    def on_batch(self, batch: Batch) -> Batch:
        for key in [key for key in batch.places if batch.views[key][0].ndim == 4]:
            views, count = batch.views[key], len(batch.views[key]) // 2
            if len(views) != 2 * count or not count:
                raise UserError(f"paste needs as many foregrounds as backgrounds; {len(views)} views are shown")
            made = [self._pasted(views[n], batch.places[key][n], views[count + n]) for n in range(count)]
            batch.views[key] = [image for image, _ in made]
            ones = torch.ones(len(views[0]), dtype=torch.long, device=views[0].device)
            batch.fields[key] = {"boxes": [Ragged(boxes, ones) for _, boxes in made]}
            del batch.places[key]  # what is shown comes from two sources
        return batch

    def _pasted(self, front: Tensor, place: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """Returns images (B, 3, S, S) with others on them, and their boxes (B, 4) in pixels."""
        rows, side = len(front), back.shape[-1]
        boxes = self._boxes(place, side)
        other = as_unit(back).roll(random.randrange(1, rows) if rows > 1 else 0, 0)
        with torch.autocast(front.device.type, enabled=False):
            across = resampling(boxes[:, 0], boxes[:, 2], front.shape[-1], side)
            down = resampling(boxes[:, 1], boxes[:, 3], front.shape[-2], side)
            shown = torch.einsum("byh,bchw,bxw->bcyx", down, as_unit(front), across)
        inside = (down.sum(dim=2) > 0)[:, None, :, None] & (across.sum(dim=2) > 0)[:, None, None]
        return torch.where(inside, shown, other), boxes

    def _boxes(self, place: Tensor, side: int) -> Tensor:
        """Draws boxes (B, 4) of whole pixels, with the shape of what the places (B, 2, 3) cut."""
        device = place.device
        drawn = torch.rand(4, len(place), device=device)
        limits = (side * (self.size[0] + (self.size[1] - self.size[0]) * drawn[:2])).sort(dim=0).values
        cut = torch.stack([place[:, 0, 0].abs(), place[:, 1, 1].abs()])  # (2, B), width and height
        factor = torch.minimum(limits[0] / cut.amin(dim=0), limits[1] / cut.amax(dim=0))
        size = (cut * factor).round().clamp(1, side)
        start = (drawn[2:] * (side - size + 1)).floor().minimum(side - size)
        return torch.cat([start, start + size]).T


def resampling(start: Tensor, end: Tensor, inputs: int, outputs: int) -> Tensor:
    """Returns weights (B, outputs, inputs) that scale a line of pixels to lie from start to end (B,), 0 elsewhere.

    Linear, over all pixels of the line that fall into one: as Pillow's and torch's antialiased bilinear filter.
    """
    middle = torch.arange(outputs, device=start.device) + 0.5
    scale = (inputs / (end - start))[:, None]  # pixels of the line in one of the result
    source = (middle - start[:, None]) * scale  # (B, outputs)
    reach = scale.clamp(min=1.0)[:, :, None]
    apart = (torch.arange(inputs, device=start.device) + 0.5 - source[:, :, None]).abs()
    weights = (1 - apart / reach).clamp(min=0)
    weights = weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-6)
    inside = (middle > start[:, None]) & (middle < end[:, None])
    return weights * inside[:, :, None]
