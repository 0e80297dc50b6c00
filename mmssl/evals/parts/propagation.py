"""Label propagation: each frame's cells copy labels from the most similar cells of earlier frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.numerics.color import gray
from mmssl.types import Encoder

HELD = 2**24  # similarities held at a time
AT_ONCE = 64  # frames encoded at a time


@torch.inference_mode()
def propagate(
    cells: Tensor, labels: Tensor, *, context: int = 7, radius: float = 12, topk: int = 5, temperature: float = 0.1
) -> Tensor:
    """Carries soft labels of the first frame (B, C, h, w) through the cells (B, T, h, w, D): (B, T, C, h, w).

    Each cell takes the mean of the labels of its `topk` most similar cells in the first frame and in `context`
    previous ones, within `radius` cells of its own place, weighted by softmax(q.k / temperature).
    The protocol of Jabri et al., NeurIPS 2020 ("Space-time correspondence as a contrastive random walk").
    """
    found = [labels.movedim(1, -1)]  # (B, h, w, C) each
    for now in range(1, cells.shape[1]):
        seen = [0, *range(max(1, now - context), now)]
        keys, memory = cells[:, seen], torch.stack([found[then] for then in seen], dim=1)
        copied = torch.empty_like(found[0])
        side = _side(cells.shape[2:4], radius, HELD // (len(cells) * len(seen)))
        for top in range(0, cells.shape[2], side):
            for left in range(0, cells.shape[3], side):
                square = slice(top, top + side), slice(left, left + side)
                copied[:, square[0], square[1]] = _copied(
                    cells[:, now], keys, memory, square, radius, topk, temperature
                )
        found.append(copied)
    return torch.stack(found, dim=1).movedim(-1, 2)


def _side(grid: Sequence[int], radius: float, held: int) -> int:
    """Returns the side of the largest square of cells whose similarities to all that is near them may be held.

    It is the radius, or 8, at most: the larger the square, the more of what is near it is far from most of its cells.
    """
    for side in range(min(max(8, int(radius)), *grid), 1, -1):
        near = [min(size, side + 2 * int(radius)) for size in grid]
        if side * side * near[0] * near[1] <= held:
            return side
    return 1


def _copied(
    now: Tensor, keys: Tensor, memory: Tensor, own: tuple[slice, slice], radius: float, topk: int, temperature: float
) -> Tensor:
    """Labels a square of one frame: now (B, h, w, D), keys (B, L, h, w, D), memory (B, L, h, w, C); (B, n, m, C)."""
    batch, frames, *grid, _ = keys.shape
    near = [slice(max(0, part.start - int(radius)), part.stop + int(radius)) for part in own]
    queries = now[:, own[0], own[1]]
    similar = queries.flatten(1, 2) @ keys[:, :, near[0], near[1]].flatten(1, 3).mT  # (B, n m, L n' m')
    places = [torch.arange(size, device=now.device) for size in grid]
    down, across = ((place[a, None] - place[b]).square() for place, a, b in zip(places, own, near, strict=True))
    far = down[:, None, :, None] + across[None, :, None] > radius**2  # (n, m, n', m')
    similar.unflatten(2, (frames, -1)).masked_fill_(far.flatten(0, 1).flatten(1)[:, None], -torch.inf)
    best = similar.topk(min(topk, similar.shape[2]), dim=2)
    weights = (best.values / temperature).softmax(dim=2)[..., None]  # (B, n w, k, 1)
    values = memory[:, :, near[0], near[1]].flatten(1, 3)  # (B, L n' m', C)
    index = best.indices.flatten(1)[..., None].expand(-1, -1, values.shape[2])
    copied = values.gather(1, index).view(batch, -1, best.indices.shape[2], values.shape[2])
    return (weights * copied).sum(dim=2).view(*queries.shape[:3], -1)


def carried(cells: Tensor, mask: Tensor, **protocol: Any) -> Tensor:
    """Carries the labels of the first frame's mask (H, W) through the cells (T, h, w, D) of a clip: (T, H, W).

    Masks travel soft; in each frame a label's map is divided by its largest value, as Caron et al. (ICCV 2021) do,
    so that an object smaller than a cell is not outvoted. protocol: options of `propagate`.
    """
    names = _names(mask)
    soft = _on_grid(mask, names, cells.shape[1:3])
    maps = propagate(cells[None], soft[None], **protocol)[0, 1:]
    return torch.stack([mask, *(_as_mask(each, names, mask.shape) for each in maps)])


def ceiling(masks: Tensor, grid: Sequence[int]) -> Tensor:
    """Returns what `carried` would make of masks (T, H, W) if every cell of the grid (h, w) had the right labels.

    Only labels of the first frame are carried.
    """
    names = _names(masks[0])
    return torch.stack([_as_mask(_on_grid(mask, names, grid), names, mask.shape) for mask in masks])


def _names(mask: Tensor) -> Tensor:
    """Returns the labels of a mask, and 0, ascending."""
    return torch.cat([mask.new_zeros(1), mask.unique()]).unique()


def _on_grid(mask: Tensor, names: Tensor, grid: Sequence[int]) -> Tensor:
    """Returns the share of each label in each cell: (C, h, w)."""
    return F.adaptive_avg_pool2d((mask == names[:, None, None]).float(), (grid[0], grid[1]))


def _as_mask(maps: Tensor, names: Tensor, size: Sequence[int]) -> Tensor:
    """Returns the label (H, W) that is highest at each pixel of soft labels (C, h, w), each by its largest value."""
    fine = F.interpolate(maps[None], size=(size[0], size[1]), mode="bilinear")[0]  # (C, H, W)
    return names[(fine / fine.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)).argmax(dim=0)]


def moved(cells: Tensor, points: Tensor, **protocol: Any) -> Tensor:
    """Carries the first frame's key points (K, 2), x and y as shares of the sides, through the cells: (T, K, 2).

    Each is a map with one cell set, and in later frames the centre of its five highest cells.
    """
    height, width = cells.shape[1:3]
    sides = torch.tensor([width, height])
    place = (points * sides).long().clamp(min=0).minimum(sides - 1)
    labels = F.one_hot(place[:, 1] * width + place[:, 0], height * width).float().view(-1, height, width)
    best = propagate(cells[None], labels[None], **protocol)[0].flatten(2).topk(min(5, height * width), dim=2)
    centres = torch.stack([best.indices % width + 0.5, best.indices // width + 0.5], dim=3) / sides  # (T, K, 5, 2)
    weights = best.values / best.values.sum(dim=2, keepdim=True).clamp(min=1e-12)
    return torch.cat([points[None], (weights[..., None] * centres).sum(dim=2)[1:]])


@torch.inference_mode()
def cells_of(
    encoder: Encoder, frames: Tensor, *, space: str | None = None, window: int = 1, grayscale: bool = False
) -> Tensor:
    """Returns the cells (T, h, w, D), of unit length, that an encoder of images or videos makes of (T, 3, H, W).

    space: the task whose head each cell goes through. window: how many frames a video encoder sees at a time.
    Raises UserError for an encoder whose tokens do not lie on a grid of every frame.
    """
    still, count = encoder.modality == "image", len(frames)
    window = 1 if still else window
    shown = torch.cat([frames, frames[-1:].expand(-count % window, -1, -1, -1)])  # the last frame stands still
    clips = (gray(shown) if grayscale else shown).unflatten(0, (-1, window)).transpose(1, 2)  # (n, 3, window, H, W)
    parts = []
    for part in clips.split(max(1, AT_ONCE // window)):
        features = encoder((part[:, :, 0] if still else part).to(encoder.device))
        grid = (1, *(features.grid or ())) if still else features.grid
        if features.tokens is None or grid is None or len(grid) != 3 or grid[0] != window:
            raise UserError(f"labels move from cell to cell, but of {window} frames this encoder makes {features.grid}")
        tokens = features.tokens if space is None else encoder.spaces[space](features)
        parts.append(F.normalize(tokens.float(), dim=-1).unflatten(1, grid).flatten(0, 1))
    return torch.cat(parts)[:count]
