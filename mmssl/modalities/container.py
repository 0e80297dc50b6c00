"""Media files through FFmpeg: opened for one call, single-threaded, with one clock for images and sound."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmssl.errors import DamagedError, UserError
from mmssl.limits import check, limit
from mmssl.modalities import mp4

# Only these: FFmpeg tells a format by the bytes, and playlists, manifests and patterns (hls, dash, concat, sdp, image2,
# vobsub, ...) open further files and addresses that the bytes name.
FORMATS = (
    "mov,matroska,avi,asf,flv,mpeg,mpegts,mpegvideo,h264,hevc,m4v,ivf,dv,xmv,nut,mxf,"
    "wav,w64,flac,ogg,mp3,aac,ac3,eac3,amr,amrnb,amrwb,aiff,au,caf"
)


@dataclass(frozen=True)
class MediaFile:
    """Bytes or a path: what a Video and an Audio are handles on, so that one can be had from the other."""

    data: bytes | Path = field(repr=False)


def pyav() -> int:
    """Returns the major version of PyAV: 14 to 19 are served."""
    import av

    return int(av.__version__.partition(".")[0])


@contextmanager
def opened(data: bytes | Path) -> Iterator[Any]:
    """Opens a container for reading; no format may fetch further files or addresses."""
    import av

    if isinstance(data, Path) and not data.is_file():
        raise UserError(f"there is no file {str(data)!r}")
    mp4.check(data)
    source = f"file:{data}" if isinstance(data, Path) else io.BytesIO(data)
    options = {
        "protocol_whitelist": "file" if isinstance(data, Path) else "data",
        "format_whitelist": FORMATS,
    }
    # Titles in another encoding than UTF-8 are no reason to refuse a file; PyAV 19 replaces them by itself.
    lenient: dict[str, Any] = {"metadata_errors": "ignore"} if pyav() < 19 else {}
    try:
        container = av.open(source, options={"max_pixels": most_pixels()}, container_options=options, **lenient)
    except (av.FFmpegError, ValueError, OSError) as error:
        raise DamagedError("not a media file that FFmpeg reads", str(error)) from None
    try:
        yield container
    finally:
        container.close()


def track(container: Any, kind: str, missing: str) -> Any:
    """Returns the first decodable "video" or "audio" stream, set to one thread; raises DamagedError(missing)."""
    import av

    cover = av.stream.Disposition.attached_pic
    for stream in getattr(container.streams, kind):
        if stream.codec_context is not None and not stream.disposition & cover:
            stream.codec_context.thread_count = 1
            if kind == "video":
                check_size(stream.codec_context.width, stream.codec_context.height)
                stream.codec_context.options = {"max_pixels": most_pixels()}
            return stream
    raise DamagedError(missing)


def most_pixels() -> str:
    """Returns how much FFmpeg may allocate for an image: the limit, and the margins that decoders add."""
    return f"{min(limit('picture_pixels') + 2**22, 2**31 - 1):.0f}"


def check_size(width: int, height: int) -> None:
    """Raises DamagedError for images larger than the limits."""
    check("picture_side", max(width, height), "video too large to decode", f"{width} x {height}")
    check("picture_pixels", width * height, "video too large to decode", f"{width} x {height}")


def zero(container: Any) -> float:
    """Returns the container's own time, in seconds, that counts as 0 on the clock of this package.

    Broadcast streams start at any time; a small negative start is a codec's run-in before the origin.
    """
    start = container.start_time
    return max(0.0, start / 1_000_000) if start is not None else 0.0


def decoded(packets: Iterator[Any], stream: Any) -> Iterator[Any]:
    """Yields what decodes of packets; what is damaged is passed over, to the last whole packet."""
    import av

    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):
            packet = None
        with suppress(av.FFmpegError, ValueError):
            yield from stream.codec_context.decode(packet)
        if packet is None:
            return


class Clock:
    """Tells when a frame is shown or heard, in seconds on the container's own time, or None where no stamp says it.

    Of the two stamps of a frame the one counts that went backwards less often, as in FFmpeg (libavcodec/decode.c,
    guess_correct_pts): some files hold decoding times where the times of showing belong.
    """

    def __init__(self) -> None:
        self.last: list[int | None] = [None, None]
        self.faults = [0, 0]

    def __call__(self, frame: Any, stream: Any) -> float | None:
        stamps = frame.pts, frame.dts
        if stamps == (None, None):
            return None
        for kind, stamp in enumerate(stamps):
            last = self.last[kind]
            self.faults[kind] += stamp is not None and last is not None and stamp <= last
            self.last[kind] = stamp if stamp is not None else stamps[1 - kind]
        first, other = stamps if self.faults[0] <= self.faults[1] else stamps[::-1]
        return float((first if first is not None else other) * (frame.time_base or stream.time_base))


def step_of(stream: Any) -> float:
    """Returns the seconds from one image to the next, as the header has it; 0.04 where it says nothing usable."""
    rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    return next((1 / float(rate) for rate in rates if rate and 0.01 < rate < 500), 0.04)


def promised(container: Any, stream: Any) -> float:
    """Returns the seconds a track lasts by the header, which may lie; 0 where it does not say."""
    return float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1_000_000


def end_of(data: bytes | Path, kind: str, missing: str) -> float:
    """Measures where a track ends, in seconds on the package's clock, from its last packets.

    Headers lie (a truncated file promises what it lost), so they only say where to look.
    """
    with opened(data) as container:
        stream = track(container, kind, missing)
        start = zero(container)
        length = promised(container, stream)
        jump = length > 10 and seek(container, stream, length + start - 5)
        end = _last_stamp(container, stream) if jump or length <= 10 else None
    if end is None:
        with opened(data) as container:
            end = _last_stamp(container, track(container, kind, missing))
    if end is None:
        raise DamagedError(missing)
    return checked(end - start)


def checked(seconds: float) -> float:
    """Returns how long a track lasts; DamagedError for more than the limit track_seconds."""
    check("track_seconds", seconds, "a video or sound of an impossible length", f"{seconds:.0f} s")
    return seconds


def seek(container: Any, stream: Any, seconds: float) -> bool:
    import av

    try:
        container.seek(int(seconds / stream.time_base), stream=stream)
    except (av.FFmpegError, OSError, OverflowError):
        return False
    return True


def _last_stamp(container: Any, stream: Any) -> float | None:
    import av

    last = None
    try:
        for packet in container.demux(stream):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None:
                end = stamp + (packet.duration or 0)
                last = end if last is None else max(last, end)
    except (av.FFmpegError, OSError):
        pass
    return None if last is None else float(last * stream.time_base)
