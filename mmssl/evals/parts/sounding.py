"""A moment at which something sounds: what is seen and heard of it, and where in the image it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmssl.errors import DamagedError
from mmssl.evals.parts.report import require
from mmssl.modalities import image
from mmssl.transforms import video
from mmssl.transforms.image import opened
from mmssl.types import Sample

Truth = Literal["impacts", "boxes", "masks"]
Pictures = np.ndarray  # uint8 (T, H, W, 3)


@dataclass(slots=True)
class Moment:
    """What an encoder sees, (3, S, S) or (3, T, S, S), and hears, and the truth (S, S) bool in its image `frame`.

    time: in seconds of the film, None of a still image. truth is all false where none is known.
    """

    seen: Tensor
    heard: Tensor
    truth: Tensor
    frame: int = 0
    time: float | None = None

    @property
    def picture(self) -> Tensor:
        """The one image that the truth is about, uint8 (3, S, S)."""
        return self.seen if self.seen.ndim == 3 else self.seen[:, self.frame]


class Sounding:
    """Finds the moments of a sample at which something sounds, and where.

    preprocess: encoder's key -> its preprocessing. visual: "image" or "video". truth: `impacts` are those of the
    toy world, loudest first, at most `count` of a clip, each with the mask of the object that hit; `boxes`, a list of
    (left, top, right, bottom) as shares of the image, and `masks`, of one image or of each of a video's, not 0 where
    it sounds, are of the middle of a video, or of a still image. Without truth moments are `count` evenly apart.
    """

    def __init__(
        self, preprocess: Mapping[str, Any], visual: str, *, truth: Truth | None = "impacts", count: int = 1
    ) -> None:
        self.preprocess, self.visual, self.truth, self.count = preprocess, visual, truth, count
        known = {"impacts": ("masks", "meta"), "boxes": ("boxes",), "masks": ("masks",), None: ()}
        self.reads = (visual, "audio", *known[truth])

    def __call__(self, sample: Sample) -> list[Moment]:
        """Returns the moments. Raises DamagedError for a sample that has none, lacks a field or is unusable."""
        require(sample, *self.reads)
        moments = [self._moment(sample, time, where) for time, where in self._told(sample)][: self.count]
        if not moments:
            raise DamagedError("no moment at which something sounds and is seen")
        return moments

    def _told(self, sample: Sample) -> Iterator[tuple[float | None, Any]]:
        """Yields when something sounds, None for a still image, and of which object, None for everything."""
        if self.truth != "impacts":
            length = getattr(sample[self.visual], "duration", None)
            count = 1 if self.truth or length is None else self.count
            for number in range(count):
                yield None if length is None else (number + 0.5) * length / count, None
            return
        masks, meta = _masks(sample["masks"]), sample["meta"]
        if not isinstance(meta, dict) or "fps" not in meta or "impacts" not in meta:
            raise DamagedError("meta without fps and impacts")
        fps = meta["fps"]
        for impact in sorted(meta["impacts"], key=lambda impact: -impact["speed"]):
            number = impact["object"] + 1
            if (masks[min(int(impact["time"] * fps), len(masks) - 1)] == number).any():
                yield impact["time"], number

    def _moment(self, sample: Sample, time: float | None, number: int | None) -> Moment:
        clip = sample[self.visual]
        if time is None:
            pictures, times = np.asarray(image.pixels(opened(clip)))[None], [0.0]
        else:
            times = self._times(clip, time)
            pictures = clip.frames(times)
        frame = int(np.abs(np.array(times) - (time or 0.0)).argmin())
        where = self._where(sample, times[frame], number, pictures.shape[1:3])
        truth = shown(self.preprocess, self.visual, np.repeat(where[None, ..., None] * np.uint8(255), 3, axis=3))
        return Moment(
            shown(self.preprocess, self.visual, pictures),
            self._heard(sample["audio"], time),
            truth.flatten(0, -3)[0] > 127,
            frame,
            time,
        )

    def _times(self, clip: Any, time: float) -> list[float]:
        """Returns when the images about a moment are taken."""
        if self.visual == "image":
            return [time]
        preprocess = self.preprocess["video"]
        room = clip.duration - (preprocess.span or clip.duration)
        times: list[float] = preprocess.times(clip, min(time - (preprocess.span or 0) / 2, room))
        return times

    def _heard(self, raw: Any, time: float | None) -> Tensor:
        preprocess = self.preprocess["audio"]
        if time is None:
            return torch.as_tensor(preprocess(raw))
        sound = preprocess.opened(raw)
        start = min(time - preprocess.seconds / 2, sound.duration - preprocess.seconds)
        return torch.as_tensor(preprocess.window(sound, start))

    def _where(self, sample: Sample, time: float, number: int | None, size: tuple[int, ...]) -> np.ndarray:
        """Returns where it sounds, (H, W) bool, in an image of that size."""
        if self.truth is None:
            return np.zeros(size, dtype=bool)
        if self.truth == "boxes":
            return boxed(sample["boxes"], size)
        masks = _masks(sample["masks"])
        if masks.shape[-2:] != size:
            raise DamagedError("masks of another size than the images", f"{masks.shape[-2:]} and {size}")
        fps = sample["meta"]["fps"] if "meta" in sample else getattr(sample[self.visual], "fps", 1.0)
        mask = masks[min(int(time * fps + 1e-6), len(masks) - 1)]
        return mask > 0 if number is None else mask == number


def shown(preprocess: Mapping[str, Any], visual: str, pictures: Pictures) -> Tensor:
    """Returns images as the encoder sees them: a video (3, T, S, S), or the first one (3, S, S)."""
    if visual == "image":
        return torch.as_tensor(preprocess["image"](Image.fromarray(pictures[0])))
    return video.to_tensor(video.resized(video.centre_square(pictures), preprocess["video"].size))


def boxed(boxes: Any, size: tuple[int, ...]) -> np.ndarray:
    """Fills boxes (left, top, right, bottom), shares of the width and height, in an image of that size (H, W)."""
    found = np.asarray(boxes, dtype=float).reshape(-1, 4) if np.size(boxes) % 4 == 0 else np.full((1, 4), np.nan)
    if not ((found >= 0) & (found <= 1)).all() or not (found[:, :2] < found[:, 2:]).all():
        raise DamagedError("boxes that are not (left, top, right, bottom) from 0 to 1", str(boxes))
    mask = np.zeros(size, dtype=bool)
    for left, top, right, bottom in (found * np.tile(size[::-1], 2)).round().astype(int):
        mask[top:bottom, left:right] = True
    return mask


def _masks(raw: Any) -> np.ndarray:
    """Returns masks (T, H, W) of what a field holds: an image, an array, or an archive with the array `masks`."""
    if isinstance(raw, Image.Image):
        image.values(raw)  # reads it within limits, or says what is damaged
        return np.asarray(raw.convert("L"))[None]
    masks = np.asarray(raw.get("masks", ()) if isinstance(raw, dict) else raw)
    masks = masks[None] if masks.ndim == 2 else masks
    if masks.ndim != 3:
        raise DamagedError("masks that are not (T, H, W)", str(masks.shape))
    return masks
