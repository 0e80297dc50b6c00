"""An image or video with the class of every pixel, prepared as an encoder sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import image, video
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.video import VideoPreprocess, centre_square, resized
from mmssl.types import Preprocess

VOID = 255  # pixels that do not count


def prepared(preprocess: Preprocess, raw: Any, mask: Any) -> tuple[Tensor, Tensor]:
    """Returns what the encoder sees of an image or video, and the classes of its pixels (T, H, W), uint8.

    mask: an image of one channel (its values, or its palette's numbers), or an array (H, W) or (T, H, W), alone or as
    the only one of an npz. Of several masks the one in the middle belongs to an image, also to that of a film.
    Raises DamagedError for masks that do not fit.
    """
    classes = _classes(mask)
    if isinstance(preprocess, ImagePreprocess):
        middle = Image.fromarray(classes[len(classes) // 2])
        plain = replace(preprocess, interpolation="nearest")
        return preprocess(raw), plain(middle)[:1]
    if not isinstance(preprocess, VideoPreprocess):
        raise UserError(f"masks belong to images and videos; this encoder reads {preprocess.modality}")
    clip = video.load(raw)
    span = clip.duration if preprocess.span is None else preprocess.span
    times = preprocess.times(clip, (clip.duration - span) / 2)
    frames = [min(int(time / clip.duration * len(classes)), len(classes) - 1) for time in times]
    shown = resized(centre_square(classes[frames]), preprocess.size, interpolation="nearest")
    return preprocess(raw), torch.from_numpy(np.ascontiguousarray(shown))


def _classes(mask: Any) -> np.ndarray:
    """Returns masks as (T, H, W) uint8."""
    if isinstance(mask, dict):
        if len(mask) != 1:
            raise DamagedError("masks that are not one array", ", ".join(mask))
        (mask,) = mask.values()
    found = image.values(mask)[None] if isinstance(mask, Image.Image) else np.asarray(mask)
    found = found[None] if found.ndim == 2 else found
    if found.ndim != 3 or found.dtype.kind not in "bui" or 0 in found.shape:
        raise DamagedError("masks that are not (H, W) or (T, H, W) whole numbers", f"{found.dtype} {found.shape}")
    if found.min() < 0 or found.max() > VOID:
        raise DamagedError("classes of pixels that are not from 0 to 255", f"{found.min()} to {found.max()}")
    return found.astype(np.uint8)
