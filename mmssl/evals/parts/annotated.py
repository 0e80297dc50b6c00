"""A clip with the masks or key points of its frames: what tracking is judged on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.errors import DamagedError
from mmssl.limits import check
from mmssl.modalities import video
from mmssl.transforms.video import to_tensor
from mmssl.types import Sample

VOID = 255  # pixels that DAVIS leaves undecided
ASPECT = 0.03  # by which width over height of masks and frames may differ: sides are rounded


@dataclass(slots=True)
class Annotated:
    """frames: (T, 3, H, W) uint8. masks: (T, h, w), 0 the background, 255 void, at a size of their own.
    tracks, visible: (T, K, 2) x and y as shares of width and height, (T, K) bool.
    """

    frames: Tensor
    masks: Tensor | None = None
    tracks: Tensor | None = None
    visible: Tensor | None = None


def annotated(sample: Sample, *, size: int | None, square: bool = False) -> Annotated:
    """Opens `video` with `masks` (T, h, w), `tracks` (T, K, 2) in pixels and `visible` (T, K), those that are there.

    size: of the frames' shorter side, None as they are; square: of both. `meta` may tell the fps of the annotations,
    else it is the video's. Raises DamagedError for annotations that do not fit the clip.
    """
    clip = video.load(sample["video"])
    given = {name: np.asarray(array) for key in ("masks", "tracks") for name, array in sample.get(key, {}).items()}
    count = _count(given)
    meta = sample.get("meta")
    fps = float((meta.get("fps") if isinstance(meta, dict) else None) or clip.fps)
    if abs(clip.duration - count / fps) > 1.5 / fps:
        raise DamagedError("annotations of another length than the clip", f"{count} frames, {clip.duration:.2f} s")
    pictures = clip.frames([(i + 0.5) / fps for i in range(count)])
    height, width = pictures.shape[1:3]
    found = Annotated(_scaled(to_tensor(pictures).transpose(0, 1), size, square))
    if "masks" in given:
        h, w = given["masks"].shape[1:]
        if abs(w * height / (h * width) - 1) > ASPECT:
            raise DamagedError("masks of another shape than the frames", f"{w} x {h}, {width} x {height}")
        found.masks = torch.from_numpy(given["masks"].astype(np.int64))
    if "tracks" in given:
        found.tracks = torch.from_numpy(given["tracks"].astype(np.float32)) / torch.tensor([width, height])
        visible = given.get("visible", np.ones(given["tracks"].shape[:2]))
        found.visible = torch.from_numpy(visible.astype(bool)) & found.tracks.isfinite().all(dim=2)
    return found


def _count(given: dict[str, Any]) -> int:
    """Returns how many frames are annotated; DamagedError for arrays of other shapes than expected."""
    masks, tracks, visible = (given.get(name) for name in ("masks", "tracks", "visible"))
    if masks is None and tracks is None:
        raise DamagedError("a clip without masks or tracks")
    if masks is not None and (masks.ndim != 3 or masks.dtype.kind not in "bui" or 0 in masks.shape):
        raise DamagedError("masks that are not (T, H, W) whole numbers", f"{masks.dtype} {masks.shape}")
    if tracks is not None and (tracks.ndim != 3 or tracks.shape[2] != 2):
        raise DamagedError("tracks that are not (T, K, 2)", str(tracks.shape))
    if masks is not None:
        check("clip_pixels", masks.size, "masks too large to hold", f"{masks.shape}")
    lengths = {len(array) for array in (masks, tracks, visible) if array is not None}
    check("clip_pixels", max(lengths), "a clip too large to hold", f"{max(lengths)} annotated frames")
    if len(lengths) > 1 or min(lengths) < 3:
        raise DamagedError("annotations of fewer than three frames, or of several lengths", str(sorted(lengths)))
    return lengths.pop()


def _scaled(frames: Tensor, size: int | None, square: bool) -> Tensor:
    """Scales uint8 frames (T, 3, H, W) until their shorter side, or both, is `size`."""
    height, width = frames.shape[2:]
    size = min(height, width) if size is None else size
    factor = size / min(height, width)
    shape = (size, size) if square else (round(height * factor), round(width * factor))
    if shape == (height, width):
        return frames
    check("picture_side", max(shape), "an image too long to scale", f"{width} x {height}")
    check("clip_pixels", len(frames) * shape[0] * shape[1], "a clip too large to scale", f"{width} x {height}")
    scaled = [F.interpolate(f[None].float(), size=shape, mode="bilinear", antialias=True) for f in frames]
    return torch.cat(scaled).round().clamp(0, 255).to(torch.uint8)
