"""Video: images selected by time through PyAV, or through decord, which returns the same ones."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from mmssl.errors import DamagedError, UserError
from mmssl.limits import check
from mmssl.modalities import container as media
from mmssl.modalities.audio import add_track
from mmssl.modalities.playback import NO_PICTURES, LeftOutError, LostError, Player, fitted

EXTENSIONS = ("mp4", "m4v", "mkv", "webm", "avi", "mov", "mpg", "mpeg")

Backend = Literal["pyav", "decord"]
Shown = tuple[dict[float, np.ndarray], tuple[int, int]]  # the image of each time, and (width, height) of the source


class Video(media.MediaFile):
    """A clip, opened only inside calls: bytes or a path."""

    @cached_property
    def duration(self) -> float:
        """When the last image ends, in seconds, measured from the packets that are there."""
        return media.end_of(self.data, "video", NO_PICTURES)

    @cached_property
    def fps(self) -> float:
        """Images per second, as the header has it."""
        with media.opened(self.data) as container:
            return 1 / media.step_of(media.track(container, "video", NO_PICTURES))

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of its images; known once some were taken, else the first one is decoded for it."""
        return _pyav(self.data, [0.0], None)[1]

    def frames(self, times: Sequence[float], *, min_size: int | None = None, backend: Backend = "pyav") -> np.ndarray:
        """Returns the image shown at each time (s), uint8 (T, H, W, 3): the last that starts at or before it.

        Before the first image that is the first, after the last the last. With `min_size` larger
        images are scaled until their shorter side is that. Raises DamagedError if none decodes, and for more pixels
        of all of them than the limit clip_pixels.
        """
        if backend not in BACKENDS:
            raise UserError(f"there is no video backend {backend!r}; known: {', '.join(BACKENDS)}")
        shown, size = BACKENDS[backend](self.data, sorted(set(map(float, times))), min_size)
        self.__dict__["size"] = size
        pictures = [shown[time] for time in map(float, times)]
        _check_clip(len(pictures), *pictures[0].shape[:2])
        return np.stack(pictures)


@dataclass(frozen=True)
class Frames:
    """A clip already in memory, uint8 (T, H, W, 3); answers as Video does."""

    pictures: np.ndarray
    fps: float

    @property
    def duration(self) -> float:
        return len(self.pictures) / self.fps

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its images."""
        return self.pictures.shape[2], self.pictures.shape[1]

    def frames(self, times: Sequence[float], *, min_size: int | None = None) -> np.ndarray:
        """Returns the image shown at each time (s), uint8 (T, H, W, 3)."""
        last = len(self.pictures) - 1
        height, width = self.pictures.shape[1:3]
        _check_clip(len(times), *fitted(width, height, min_size))
        index = np.clip(np.floor(np.asarray(times) * self.fps + 1e-6), 0, last).astype(int)
        return np.stack([_scaled(self.pictures[i], min_size) for i in index])


def _check_clip(count: int, *sides: int) -> None:
    """Raises DamagedError for this many images that they would not be held."""
    found = f"{count} images of {' x '.join(map(str, sides))}"
    check("clip_pixels", count * math.prod(sides), "a clip too large to hold", found)


def _pyav(data: bytes | Path, times: list[float], min_size: int | None) -> Shown:
    """Seeks and decodes no more than it must; a file whose rate or index misleads is played whole, from its start."""
    seeking = True
    only: list[float] | None = times
    while True:
        with media.opened(data) as container:
            try:
                player = Player(container, seeking=seeking, min_size=min_size, only=only)
                _check_clip(len(times), *player.size)
                return {time: player.at(time) for time in times}, player.source
            except LeftOutError:
                only = None
            except LostError:
                seeking, only = False, None


def _decord(data: bytes | Path, times: list[float], min_size: int | None) -> Shown:
    """The other reader, never the default: it can spin for ever on damaged files, and it is the slower one.

    It reads all packets when it opens a file, and decodes each image on the way to a wanted one, of which PyAV leaves
    out some. tools/bench/video.py measures both.

    PyAV reads what it gets wrong: it does not mirror, scales to the header's size, and counts images that an edit
    list cuts off.
    """
    try:
        import decord
    except ImportError:
        raise UserError("the video backend 'decord' is not installed; pip install decord, or use 'pyav'") from None
    with media.opened(data) as container:
        player = Player(container, seeking=False, min_size=None)
        first, size, mirrored = player.starts, player.size, player.is_mirrored
        _check_clip(len(times), *size)
    try:
        source = io.BytesIO(data) if isinstance(data, bytes) else str(data.absolute())  # "pipe:0" is a file's name
        reader = decord.VideoReader(source, num_threads=1)
        starts = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        cut = starts[0] < 0 or (np.diff(starts) <= 0).any()
        starts += first - starts[0]  # decord has its own origin
        index = np.maximum(np.searchsorted(starts, np.asarray(times) + 1e-6, side="right") - 1, 0)
        pictures = reader.get_batch(index.tolist()).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise DamagedError("video that decord does not decode", str(error).partition("\n")[0]) from None
    if cut or mirrored or pictures.shape[2:0:-1] != size:
        return _pyav(data, times, min_size)
    return {time: _scaled(picture, min_size) for time, picture in zip(times, pictures, strict=True)}, size


BACKENDS = {"pyav": _pyav, "decord": _decord}


def _scaled(picture: np.ndarray, min_size: int | None) -> np.ndarray:
    size = fitted(picture.shape[1], picture.shape[0], min_size)
    if size == (picture.shape[1], picture.shape[0]):
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def decode(data: bytes, extension: str = "") -> Video:
    """Returns a handle on a clip; nothing is opened yet."""
    return Video(data)


def load(raw: Any, *, fps: float = 25.0) -> Video | Frames:
    """Takes a handle, a path, bytes, or images: an array (T, H, W, 3) or a tensor (3, T, H, W), at `fps`."""
    if isinstance(raw, Video | Frames):
        return raw
    if isinstance(raw, str | Path):
        return Video(Path(raw))
    if isinstance(raw, bytes | bytearray | memoryview):
        return Video(bytes(raw))
    if isinstance(raw, Tensor):
        raw = raw.detach().cpu().movedim(0, -1).numpy() if raw.ndim == 4 else raw.numpy()
    if not isinstance(raw, np.ndarray):
        raise UserError(f"expected a video (path, bytes, Video, array or tensor), found {type(raw).__name__}")
    return Frames(_clip(raw), fps)


def _clip(array: np.ndarray) -> np.ndarray:
    if array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise UserError(f"expected a clip (T, H, W, 3) or a tensor (3, T, H, W), found shape {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise UserError("expected a float clip in [0, 1]; scale it, or give uint8")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"expected a clip of uint8 or float, found {array.dtype}")
    return array


def encode(
    frames: Any,
    *,
    fps: float,
    audio: Any = None,
    sample_rate: int | None = None,
    quality: int = 18,
    keyframe_interval: int = 12,
) -> bytes:
    """Writes an mp4 of H.264 images and, where a waveform (samples,) is given, AAC sound.

    frames: uint8, or float in [0, 1], (T, H, W, 3) with even sides.
    quality: x264's constant rate factor, 0 is lossless, 51 is worst.
    keyframe_interval: images from one key frame to the next.
    """
    import av

    pictures = _clip(np.asarray(frames))
    if pictures.shape[1] % 2 or pictures.shape[2] % 2:
        raise UserError(f"H.264 needs even sides, found (H, W) = {pictures.shape[1:3]}; crop or pad by one pixel")
    if (audio is None) != (sample_rate is None):
        raise UserError("a clip with sound needs both the waveform and its sample_rate")
    stream, rate = io.BytesIO(), Fraction(fps).limit_denominator(1001)
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("libx264", rate=rate)
        track.height, track.width, track.pix_fmt = *pictures.shape[1:3], "yuv420p"
        # The same bytes each time: threads are not deterministic, nor is x264's look-ahead with AVX-512.
        track.codec_context.thread_count = 1
        x264 = {"crf": str(quality), "g": str(keyframe_interval), "preset": "veryfast"}
        track.options = {**x264, "x264-params": "cpu-independent=1"}
        write_sound = add_track(container, audio, sample_rate, "aac") if sample_rate else None
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
        if write_sound is not None:
            write_sound()
    return stream.getvalue()
