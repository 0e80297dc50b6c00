"""Boxes (left, top, right, bottom) in pixels: anchors near them, and boxes a little off."""

from __future__ import annotations

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
