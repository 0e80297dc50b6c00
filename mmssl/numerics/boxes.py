"""Boxes (left, top, right, bottom) in pixels: anchors near them, and boxes a little off."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from mmssl.numerics.constants import constant

STEPS = 16  # places of anchors along each side
SIDES = (1 / 8, 1 / 4, 1 / 2, 1.0)  # square roots of their areas, over the image's side
RATIOS = (0.5, 0.75, 1.0, 1.5, 2.0)  # height over width


def anchors(side: int, *, device: torch.device) -> Tensor:
    """Returns boxes of several sizes and shapes around the corners of a grid of cells, (A, 4), of a square image."""
    step = side / STEPS
    shapes = [(length * side / ratio**0.5 / 2, length * side * ratio**0.5 / 2) for length in SIDES for ratio in RATIOS]
    places = [(x * step, y * step) for y in range(STEPS) for x in range(STEPS)]
    return constant(tuple((x - w, y - h, x + w, y + h) for x, y in places for w, h in shapes), device)


def near_anchors(boxes: Tensor, chances: Tensor, *, side: int, iou: float) -> Tensor:
    """Returns for each box (B, 4) an anchor that overlaps it by more than `iou`, or else the one that does most.

    chances: (B, A) uniform numbers; of those that overlap enough the one with the highest is taken.
    Yang et al., CVPR 2021 (InsLoc).
    """
    known = anchors(side, device=boxes.device)
    overlap = box_iou(boxes.float(), known)
    enough = overlap > iou
    score = torch.where(enough, 1 + chances, torch.where(enough.any(dim=1, keepdim=True), 0.0, overlap))
    return known[score.argmax(dim=1)]


def jittered(boxes: Tensor, chances: Tensor, *, ratio: float, p: float, side: int) -> Tensor:
    """Moves and scales boxes (..., 4) by up to `ratio` of their sides, each with a probability; cut at the border.

    chances: (..., 5) uniform numbers. side: of the image, in pixels. Wei et al., NeurIPS 2021 (SoCo).
    """
    size = boxes[..., 2:] - boxes[..., :2]
    drawn = ratio * (2 * chances[..., :4] - 1)
    start = boxes[..., :2] + drawn[..., :2] * size
    moved = torch.cat([start, start + size * (1 + drawn[..., 2:])], dim=-1).clamp(0, side)
    return torch.where(chances[..., 4:] < p, moved, boxes)


def level_of(boxes: Tensor, sizes: Sequence[float], levels: int) -> Tensor:
    """Returns which of so many levels boxes (..., 4) lie on: the first whose size the root of their area is not above.

    sizes: of all levels but the last, ascending, in pixels. Wei et al., NeurIPS 2021 (SoCo).
    """
    root = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).clamp(min=0).sqrt()
    above = root[..., None] > constant(tuple(sizes), boxes.device)
    return above.sum(dim=-1).clamp(max=levels - 1)
