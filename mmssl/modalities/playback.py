"""Playing a clip forward, and jumping to a key frame where that saves decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from mmssl.errors import DamagedError
from mmssl.modalities import container as media

NO_PICTURES = "video without pictures"

# Times are compared with this slack, in seconds: 3 * 0.04 is not 0.12.
EPS = 1e-6
# An index carries decoding times; where pictures are reordered, a key frame is shown a little later.
REORDER = 0.2
# Without an index, a jump over this many seconds is worth a seek.
FAR = 5.0


class LostError(Exception):
    """A seek led nowhere: the file's index is not to be trusted."""


class Player:
    """Shows the picture of each time asked for, in ascending order."""

    def __init__(self, container: Any, *, seeking: bool, min_size: int | None) -> None:
        self.container, self.seeking, self.min_size = container, seeking, min_size
        self.stream = media.track(container, "video", NO_PICTURES)
        self.zero, self.step = media.zero(container), media.step_of(self.stream)
        self.size: tuple[int, int] | None = None
        self.convert = _converter()
        self.decoding: Iterator[Any] = iter(())
        self.shown: Any = None
        self.picture: np.ndarray | None = None  # the shown one, converted
        self.coming: Any = None
        self.starts = 0.0  # when the coming one is shown
        if seeking and not self._has_index():
            media.seek(container, self.stream, self.zero)  # some formats read their index on the first seek
        self._play()

    def at(self, time: float) -> np.ndarray:
        """Returns the picture shown at a time, uint8 (H, W, 3)."""
        if self.seeking and self._worth_a_jump(time):
            self._jump(time)
        while self.coming is not None and self.starts <= time + EPS:
            self.shown, self.picture = self.coming, None
            self._pull()
        frame = self.shown if self.shown is not None else self.coming
        if frame is None:
            raise LostError if self.seeking else DamagedError("video that does not decode")
        if self.picture is None:
            self.picture = self._rgb(frame)
        return self.picture

    def _play(self) -> None:
        """Decodes on from where the container stands."""
        self.decoding = media.decoded(self.container, self.stream)
        self.shown = self.coming = self.picture = None
        self.starts = -self.step
        self._pull()

    def _pull(self) -> None:
        self.coming = next(self.decoding, None)
        if self.coming is not None:
            stamp = media.time_of(self.coming, self.stream)
            self.starts = self.starts + self.step if stamp is None else stamp - self.zero

    def _has_index(self) -> bool:
        return len(getattr(self.stream, "index_entries", ())) > 1

    def _worth_a_jump(self, time: float) -> bool:
        """Says whether a key frame lies between the coming picture and the wanted one."""
        if self.coming is None or time - self.starts < 2 * REORDER:
            return False
        if not self._has_index():
            return time - self.starts > FAR
        index = self.stream.index_entries
        at = index.search_timestamp(int((time - REORDER + self.zero) / self.stream.time_base))
        return at >= 0 and index[at].timestamp * self.stream.time_base - self.zero > self.starts + REORDER

    def _jump(self, time: float) -> None:
        """Seeks to the last key frame shown at or before a time, stepping back where the seek landed late."""
        for back in (REORDER, 1.0, 4.0, 16.0):
            if not media.seek(self.container, self.stream, time - back + self.zero):
                break
            self._play()
            if self.coming is not None and self.starts <= time + EPS:
                return
        raise LostError

    def _rgb(self, frame: Any) -> np.ndarray:
        """Converts a picture to upright RGB, in the size of the clip's first one."""
        import av

        try:
            if self.size is None:
                self.size = fitted(frame.width, frame.height, self.min_size)
            width, height = self.size
            way = "AREA" if width < frame.width else "BICUBIC"
            picture = self.convert(frame, width, height, "rgb24", interpolation=way).to_ndarray()
        except (av.FFmpegError, ValueError) as error:
            raise DamagedError("video in an odd pixel format", str(error)) from None
        return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90) % 4))


def _converter() -> Callable[..., Any]:
    """Returns what converts one picture after another in one context and thread; a frame's own makes both anew."""
    import av
    from av.video.reformatter import VideoReformatter

    several = int(av.__version__.partition(".")[0]) >= 17  # older ones know one thread only
    options: dict[str, Any] = {"threads": 1} if several else {}
    return partial(VideoReformatter().reformat, **options)


def fitted(width: int, height: int, min_size: int | None) -> tuple[int, int]:
    """Returns the size at which the shorter side is `min_size`, never an enlarged one."""
    shorter = min(width, height)
    if min_size is None or shorter <= min_size:
        return width, height
    return round(width * min_size / shorter), round(height * min_size / shorter)
