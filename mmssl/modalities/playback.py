"""Playing a clip forward, and jumping to a key frame where that saves decoding and shows the same."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from mmssl.errors import DamagedError
from mmssl.modalities import container as media

NO_PICTURES = "video without images"

# Times are compared with this slack, in seconds: 3 * 0.04 is not 0.12.
EPS = 1e-6
# An index carries decoding times; where images are reordered, a key frame is shown a little later.
REORDER = 0.2
# Without an index, a jump over this many seconds is worth a seek; the first one sooner, since some formats read their
# index then.
FAR, FIRST_FAR = 5.0, 1.0
# An image is decoded if a time lies this many images before it or after its end: rates vary, and stamps are rounded.
SLACK = 0.5
# Decoders that obey for each packet whether it may be left out; dav1d asks but once. For as many packets as these
# hold back, they then tell a wrong decoding time.
LEAVING_OUT, DELAY = ("h264",), 16
# Program streams stamp packs of images, so that after a seek an image may get the stamp of another.
NO_SEEKING = ("mpeg",)
# Quarter turns counterclockwise: whether rows and columns change places, and which way both then run.
QUARTERS = ((False, 1, 1), (True, 1, -1), (False, -1, -1), (True, -1, 1))


class LostError(Exception):
    """A seek led nowhere: the file's index or its time stamps are not to be trusted."""


class LeftOutError(Exception):
    """An image is wanted that was left out, or images may be shown at other times than their packets say."""


class Player:
    """Shows the image of each time asked for, in ascending order.

    only: the times that will be asked for, ascending; what no image leans on and none of them shows is not decoded.
        Raises LeftOutError where that leads astray.
    """

    def __init__(
        self, container: Any, *, seeking: bool, min_size: int | None, only: Sequence[float] | None = None
    ) -> None:
        self.container = container
        self.seeking = seeking and container.format.name not in NO_SEEKING
        self.stream = media.track(container, "video", NO_PICTURES)
        self.only = only if self.stream.codec_context.name in LEAVING_OUT else None
        self.zero, self.step = media.zero(container), media.step_of(self.stream)
        self.convert, self.far = _converter(), FIRST_FAR
        self.read, self.most = 0, media.promised(container, self.stream) / self.step  # packets
        self.decoding: Iterator[Any] = iter(())
        self.shown: Any = None
        self.since = math.nan  # when the shown one began
        self.picture: np.ndarray | None = None  # the shown one, converted
        self.passed: list[float] = []  # when images begin that may not have been decoded
        self.highest, self.left = -math.inf, -DELAY  # the last begin of a packet; the packet that was left out last
        self.coming: Any = None
        self.starts: float = math.nan  # when the coming one is shown
        self._play()
        if self.coming is None:
            raise LostError if seeking else DamagedError("video that does not decode")
        if math.isnan(self.starts):
            self.starts = 0.0
        media.check_size(self.coming.width, self.coming.height)  # the header may lie
        first = fitted(self.coming.width, self.coming.height, min_size)
        turned, across, down = _orientation(self.coming)
        whole = self.coming.width, self.coming.height
        self.source: tuple[int, int] = whole[::-1] if turned else whole  # what it was before it was scaled
        self.size: tuple[int, int] = first[::-1] if turned else first  # of every image, upright
        self.is_mirrored: bool = turned == (across == down)

    def at(self, time: float) -> np.ndarray:
        """Returns the image shown at a time, uint8 (H, W, 3)."""
        if self.seeking and self._worth_a_jump(time):
            self._jump(time)
        while self.coming is not None and self.starts <= time + EPS:
            self.shown, self.since, self.picture = self.coming, self.starts, None
            self._pull()
        if any(self.since + EPS < begins <= time + EPS for begins in self.passed):
            raise LeftOutError
        if self.picture is None:
            self.picture = self._rgb(self.shown if self.shown is not None else self.coming)
        return self.picture

    def _play(self) -> None:
        """Decodes on from where the container stands; only stamps say where that is."""
        self.decoding, self.clock = media.decoded(self._packets(), self.stream), media.Clock()
        self.shown = self.coming = self.picture = None
        self.starts = self.since = math.nan
        self.passed, self.highest, self.left = [], -math.inf, -DELAY
        self._pull()

    def _packets(self) -> Iterator[Any]:
        for packet in self.container.demux(self.stream):
            self.read += 1
            if self.only is not None:
                self._choose(packet, self.only)
            yield packet

    def _choose(self, packet: Any, only: Sequence[float]) -> None:
        """Lets the decoder leave out an image that no other leans on, unless one of the times may show it."""
        if packet.size and (packet.pts is None or packet.is_corrupt or _lacks_order(packet)):
            raise LeftOutError
        begins = float(packet.pts * self.stream.time_base) - self.zero if packet.size else math.inf
        following = bisect_left(only, begins - SLACK * self.step)
        is_wanted = following < len(only) and only[following] < begins + (1 + SLACK) * self.step
        leave_out = begins < self.highest and not is_wanted  # true stamps of such an image are below an earlier one's
        self.stream.codec_context.skip_frame = "NONREF" if leave_out else "DEFAULT"
        self.highest = max(self.highest, begins)
        if leave_out:
            self.left = self.read
            self.passed.append(begins)

    def _pull(self) -> None:
        self.coming = next(self.decoding, None)
        if self.coming is not None:
            stamp = self.clock(self.coming, self.stream)
            self.starts = self.starts + self.step if stamp is None else stamp - self.zero
            if self.seeking and self.read - self.left > DELAY and _lacks_order(self.coming):
                raise LostError
            if self.only is not None and (self.clock.faults[0] or self.coming.is_corrupt):
                raise LeftOutError

    def _has_index(self) -> bool:
        return len(getattr(self.stream, "index_entries", ())) > 1

    def _worth_a_jump(self, time: float) -> bool:
        """Says whether a key frame lies between the coming image and the wanted one."""
        if self.coming is None or time - self.starts < 2 * REORDER:
            return False
        if not self._has_index():
            return time - self.starts > self.far
        index = self.stream.index_entries
        at = index.search_timestamp(int((time - REORDER + self.zero) / self.stream.time_base))
        return at >= 0 and index[at].timestamp * self.stream.time_base - self.zero > self.starts + REORDER

    def _jump(self, time: float) -> None:
        """Seeks to the last key frame shown at or before a time, stepping back where the seek landed late."""
        self.far = FAR
        for back in (REORDER, 1.0, 4.0, 16.0):
            if self.read > self.most or not media.seek(self.container, self.stream, time - back + self.zero):
                break
            self._play()
            self._pass_to_key_frame()
            if self.coming is not None and self.starts <= time + EPS:
                return
        raise LostError

    def _pass_to_key_frame(self) -> None:
        """Passes over what leans on images before the seek."""
        while self.coming is not None and (self.coming.is_corrupt or not self.coming.key_frame):
            if self.read > self.most:
                raise LostError
            self._pull()

    def _rgb(self, frame: Any) -> np.ndarray:
        """Converts an image to upright RGB, in the size of the clip's first one, as FFmpeg shows it."""
        import av

        turned, across, down = _orientation(frame)
        width, height = self.size[::-1] if turned else self.size
        way = "AREA" if width < frame.width else "BICUBIC"
        try:
            picture = self.convert(frame, width, height, "rgb24", interpolation=way).to_ndarray()
        except (av.FFmpegError, ValueError) as error:
            raise DamagedError("video in an odd pixel format", str(error)) from None
        upright = picture.swapaxes(0, 1) if turned else picture
        return np.ascontiguousarray(upright[::down, ::across])


def _lacks_order(image: Any) -> bool:
    """Says whether an image, a frame or packet, is decoded later than it is shown: the file has decoding times in
    place of others.
    """
    return image.pts is not None and image.dts is not None and image.dts > image.pts


def _orientation(frame: Any) -> tuple[bool, int, int]:
    """Says how an image is shown: whether its rows and columns change places, and which way (1 or -1) columns and
    rows then run.

    A display matrix, to the nearest quarter turn: (x, y) is shown at (a x + c y, b x + d y).
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 17 and 18 read none beside side data that they do not know, as EXIF is
        return QUARTERS[round(frame.rotation / 90) % 4]
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist() if matrix is not None else (1, 0, 0, 0, 1)
    turned = abs(b) > abs(a)
    across, down = (c, b) if turned else (a, d)
    return turned, -1 if across < 0 else 1, -1 if down < 0 else 1


def _converter() -> Callable[..., Any]:
    """Returns what converts one image after another in one context and thread; a frame's own makes both anew."""
    from av.video.reformatter import VideoReformatter

    options: dict[str, Any] = {"threads": 1} if media.pyav() >= 17 else {}  # older ones know one thread only
    return partial(VideoReformatter().reformat, **options)


def fitted(width: int, height: int, min_size: int | None) -> tuple[int, int]:
    """Returns the size at which the shorter side is `min_size`, never an enlarged one."""
    shorter = min(width, height)
    if min_size is None or shorter <= min_size:
        return width, height
    return round(width * min_size / shorter), round(height * min_size / shorter)
