"""What is aligned with an image, a video or a cloud, and moves with the part of it that is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import DamagedError
from mmssl.modalities import image as pictures
from mmssl.modalities.points import Cloud
from mmssl.numerics.constants import constant
from mmssl.numerics.geometry import apply, inverse, inverted
from mmssl.transforms.base import Frame
from mmssl.types import Ragged

Kind = Literal["boxes", "keypoints", "mask", "depth", "flow", "normals", "labels"]
"""boxes: (n, 4) left, top, right, bottom in pixels; cut at the border, so that one outside has no area.
keypoints: (n, 2) x, y in pixels from the image's corner, so that its first pixel's middle is at (0.5, 0.5).
mask: (H, W) whole numbers, or a palette image. depth: (H, W); 0, or what is not finite, was not measured, and is 0 in
views. flow: (H, W, 2) x, y in pixels. normals: (H, W, 3) of the camera's frame, or an image in which 0 to 255 stand for
-1 to 1, and black for what was not measured. labels: one value for each point of a
cloud, also for those that are not finite. Of videos all hold for the whole clip. In views, fields of several channels
are (C, H, W), and 0 where a step shows what lies outside the image, as Rotate does in the corners.
"""
CHANNELS: dict[str, tuple[int, ...]] = {"mask": (), "depth": (), "flow": (2,), "normals": (3,)}
COLUMNS = {"boxes": 4, "keypoints": 2}


def moved(kind: Kind, value: Any, frame: Frame) -> Tensor | Ragged:
    """Returns what of a field lies in a frame, as the view's pixels have it."""
    array = _numbers(kind, value)
    if kind == "normals" and isinstance(value, Image.Image):
        array = np.where(array.any(axis=-1, keepdims=True), array.astype(np.float32) / 127.5 - 1, 0)
    if kind in CHANNELS:
        _check_shape(kind, array, (frame.height, frame.width, *CHANNELS[kind]))
        return _dense(kind, array, frame)
    array = array.reshape(0, COLUMNS[kind]) if not array.size else array
    _check_shape(kind, array, (len(array), COLUMNS[kind]))
    if not np.isfinite(array).all():
        raise DamagedError(f"{kind} that are not finite")
    rows = torch.from_numpy(array.astype(np.float32))
    places = torch.from_numpy(frame.place).expand(len(rows), -1, -1)
    return Ragged.pack([_rows(kind, rows, places, (frame.size, frame.size))])


def labels_of(value: Any, cloud: Cloud, index: np.ndarray) -> Ragged:
    """Returns the labels of some of a cloud's points, by their index, of one for each point as it was read."""
    array = _numbers("labels", value)
    finite = np.ones(len(cloud), bool) if cloud.finite is None else cloud.finite
    _check_shape("labels", array, (len(finite), *array.shape[1:]))
    labels = torch.from_numpy(array[finite][index])
    return Ragged.pack([labels.float() if array.dtype.kind == "f" else labels.long()])


def blank(kind: Kind, size: int) -> Tensor | Ragged:
    """Returns what stands in for a field in a sample that lacks it, of a view of size x size pixels."""
    if kind not in CHANNELS:
        return Ragged.pack([torch.zeros(0, COLUMNS[kind]) if kind in COLUMNS else torch.zeros(0, dtype=torch.long)])
    return torch.zeros(*CHANNELS[kind], size, size, dtype=torch.long if kind == "mask" else torch.float32)


def _numbers(kind: Kind, value: Any) -> np.ndarray:
    """Returns an image's values as they are stored, or an array; DamagedError for what is no array of numbers."""
    try:
        array = pictures.values(value) if isinstance(value, Image.Image) else np.asarray(value)
    except ValueError as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"{kind} that are no array", str(error)) from None
    if array.dtype.kind not in "biuf":
        raise DamagedError(f"{kind} that are no numbers", f"{array.dtype}")
    return array


def _check_shape(kind: Kind, array: np.ndarray, expected: Sequence[int]) -> None:
    if array.shape != tuple(expected):
        raise DamagedError(f"{kind} of a wrong shape", f"expected {tuple(expected)}, found {array.shape}")


def _rows(kind: Kind, rows: Tensor, places: Tensor, shape: tuple[int, int]) -> Tensor:
    """Takes boxes or key points by the inverses of their places (n, 2, 3), to pixels of a view of a shape (H, W)."""
    back, scale = inverse(places), _sides(shape, rows)
    if kind == "keypoints":
        return apply(back, rows[:, None])[:, 0] * scale
    left, top, right, bottom = rows.unbind(1)
    corners = torch.stack([left, top, right, top, left, bottom, right, bottom], dim=1).view(-1, 4, 2)
    found = apply(back, corners) * scale
    low, high = found.amin(dim=1), found.amax(dim=1)
    return torch.cat([low.clamp(min=0).minimum(scale), high.clamp(min=0).minimum(scale)], dim=1)


def _sides(shape: tuple[int, int], like: Tensor) -> Tensor:
    """Returns width and height of a shape (H, W)."""
    return constant((float(shape[1]), float(shape[0])), like.device)


def _dense(kind: Kind, array: np.ndarray, frame: Frame) -> Tensor:
    """Cuts and scales (H, W, ...) as the image is cut: masks by the nearest pixel, the rest linearly."""
    if kind == "mask":
        return torch.from_numpy(_scaled(array.astype(np.int32), frame, Image.Resampling.NEAREST)).long()
    planes = np.moveaxis(np.atleast_3d(array.astype(np.float32)), 2, 0)
    if kind == "depth":
        there = np.isfinite(planes) & (planes != 0)
        planes = np.concatenate([np.where(there, planes, 0), there.astype(np.float32)])
    found = torch.from_numpy(np.stack([_scaled(plane, frame, Image.Resampling.BILINEAR) for plane in planes]))
    sign = -1.0 if frame.mirrored else 1.0
    if kind == "flow":  # (2, H, W), in pixels of the view
        across, down = frame.size / frame.box[2], frame.size / frame.box[3]
        return found * torch.tensor([sign * across, down])[:, None, None]
    if kind == "normals":
        return found * torch.tensor([sign, 1.0, 1.0])[:, None, None]
    return _measured(found)[0]


def _measured(found: Tensor) -> Tensor:
    """Returns depth (..., 1, H, W) of sums of what was measured and its share (..., 2, H, W); 0 below a half of it.

    So no depth is made up between an object and where nothing was measured.
    """
    depth, share = found.split(1, dim=-3)
    return (depth / share.clamp(min=0.5)).where(share >= 0.5, 0.0)


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
        before = change * _sides(shape, change)[:, None]  # to pixels
        return Ragged(_rows(kind, value.values, before[value.sample], shape), value.lengths)
    grid = change.clone()  # of affine_grid, whose places run from -1 to 1
    grid[:, :, 2] = 2 * change[:, :, 2] + change[:, :, :2].sum(dim=2) - 1
    planes = value.float() if value.ndim == 4 else value.float()[:, None]
    planes = torch.cat([planes, (planes != 0).float()], dim=1) if kind == "depth" else planes
    places = F.affine_grid(grid, list(planes.shape), align_corners=False)
    way = "nearest" if kind == "mask" else "bilinear"
    found = F.grid_sample(planes, places, mode=way, padding_mode="zeros", align_corners=False)
    if kind == "depth":
        found = _measured(found)
    elif kind in ("flow", "normals"):
        found = torch.cat([_turned(kind, found[:, :2], change, shape), found[:, 2:]], dim=1)
    return found if value.ndim == 4 else found[:, 0].to(value.dtype)


def _turned(kind: Kind, vectors: Tensor, change: Tensor, shape: tuple[int, int]) -> Tensor:
    """Takes vectors (B, 2, H, W) of the images before to what is shown now: by the maps' inverse, in pixels."""
    scale = _sides(shape, change)
    back = inverted(change[:, :, :2] * (scale[:, None] / scale))
    if kind == "normals":  # they keep their length
        back = back / torch.linalg.det(back).abs().sqrt()[:, None, None]
    return torch.einsum("bij,bjhw->bihw", back, vectors)
