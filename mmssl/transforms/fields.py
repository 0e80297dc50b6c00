"""What is aligned with an image, a video or a cloud, and moves with the part of it that is shown."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import DamagedError
from mmssl.numerics.geometry import apply, inverse
from mmssl.transforms.base import Frame
from mmssl.types import Ragged

Kind = Literal["boxes", "keypoints", "mask", "depth", "flow", "normals", "labels"]
"""boxes: (n, 4) left, top, right, bottom in pixels; cut at the border. keypoints: (n, 2) x, y in pixels.
mask: (H, W) whole numbers, or a palette image. depth: (H, W). flow: (H, W, 2) x, y in pixels. normals: (H, W, 3) of
the camera's frame. labels: one value for each point of a cloud.
"""
DENSE = ("mask", "depth", "flow", "normals")


def moved(kind: Kind, value: Any, frame: Frame) -> Tensor | Ragged:
    """Returns what of a field lies in a frame, as the view's pixels have it."""
    if kind in DENSE:
        return _dense(kind, value, frame)
    rows = torch.as_tensor(np.asarray(value, dtype=np.float32).reshape(-1, 4 if kind == "boxes" else 2))
    place = torch.from_numpy(frame.place)[None]
    return Ragged.pack([_rows(kind, rows, place, (frame.size, frame.size))])


def _rows(kind: Kind, rows: Tensor, place: Tensor, shape: tuple[int, int]) -> Tensor:
    """Takes boxes or key points by the inverse of a place (1, 2, 3), to pixels of a view of a shape (H, W)."""
    back, scale = inverse(place), rows.new_tensor(shape[::-1])
    if kind == "keypoints":
        return apply(back, rows)[0] * scale
    corners = rows[:, [[0, 1], [2, 1], [0, 3], [2, 3]]]  # (n, 4, 2)
    found = apply(back, corners.flatten(0, 1))[0].view(-1, 4, 2) * scale
    low, high = found.amin(dim=1), found.amax(dim=1)
    return torch.cat([low.clamp(min=0).minimum(scale), high.clamp(min=0).minimum(scale)], dim=1)


def _dense(kind: Kind, value: Any, frame: Frame) -> Tensor:
    """Cuts and scales (H, W, ...) as the image is cut: masks by the nearest pixel, the rest linearly."""
    array = np.asarray(value)
    if array.shape[:2] != (frame.height, frame.width):
        raise DamagedError(f"{kind} of another size than its image", f"{array.shape[:2]}, {frame.height, frame.width}")
    if kind == "mask":
        return torch.from_numpy(_scaled(array.astype(np.int32), frame, Image.Resampling.NEAREST)).long()
    planes = np.moveaxis(np.atleast_3d(array.astype(np.float32)), 2, 0)
    found = torch.from_numpy(np.stack([_scaled(plane, frame, Image.Resampling.BILINEAR) for plane in planes]))
    sign = -1.0 if frame.mirrored else 1.0
    if kind == "flow":  # (2, H, W), in pixels of the view
        across, down = frame.size / frame.box[2], frame.size / frame.box[3]
        return found * torch.tensor([sign * across, down])[:, None, None]
    if kind == "normals":
        return found * torch.tensor([sign, 1.0, 1.0])[:, None, None]
    return found[0]


def _scaled(plane: np.ndarray, frame: Frame, way: Image.Resampling) -> np.ndarray:
    left, top, width, height = frame.box
    box = (left, top, left + width, top + height)
    shown = np.array(Image.fromarray(plane).resize((frame.size, frame.size), way, box=box))
    return np.ascontiguousarray(shown[:, ::-1]) if frame.mirrored else shown


def warped(kind: Kind, value: Any, change: Tensor, shape: tuple[int, int]) -> Any:
    """Moves a batch's field as its images (B, 3, H, W) were moved on the device.

    change: (B, 2, 3), from what is shown now to what was shown before, in 0 to 1. shape: (H, W).
    """
    if isinstance(value, Ragged):
        scale = change.new_tensor(shape[::-1])
        before = change * scale[None, :, None]  # to pixels
        rows = [_rows(kind, rows, place[None], shape) for rows, place in zip(value.split(), before, strict=True)]
        return Ragged(torch.cat(rows), value.lengths)
    grid = change.clone()  # of affine_grid, whose places run from -1 to 1
    grid[:, :, 2] = 2 * change[:, :, 2] + change[:, :, :2].sum(dim=2) - 1
    planes = value.float() if value.ndim == 4 else value.float()[:, None]
    places = F.affine_grid(grid, list(planes.shape), align_corners=False)
    way = "nearest" if kind == "mask" else "bilinear"
    found = F.grid_sample(planes, places, mode=way, padding_mode="zeros", align_corners=False)
    if kind in ("flow", "normals"):
        found = torch.cat([_turned(kind, found[:, :2], change, shape), found[:, 2:]], dim=1)
    return found if value.ndim == 4 else found[:, 0].to(value.dtype)


def _turned(kind: Kind, vectors: Tensor, change: Tensor, shape: tuple[int, int]) -> Tensor:
    """Takes vectors (B, 2, H, W) of the images before to what is shown now: by the maps' inverse, in pixels."""
    scale = change.new_tensor(shape[::-1])
    back = torch.linalg.inv(change[:, :, :2] * (scale[:, None] / scale[None]))
    if kind == "normals":  # they keep their length
        back = back / torch.linalg.det(back).abs().sqrt()[:, None, None]
    return torch.einsum("bij,bjhw->bihw", back, vectors)
