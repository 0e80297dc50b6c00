"""Whether all of a field decodes: every pixel of an image, and videos and sounds from the first to the last moment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mmssl import modalities
from mmssl.errors import DamagedError
from mmssl.modalities import container as media
from mmssl.modalities import wav
from mmssl.modalities.audio import NO_SOUND, Audio
from mmssl.modalities.image import decoded
from mmssl.modalities.playback import NO_PICTURES

GUESSED = {"mp3", "mpeg", "mpegts", "mpegvideo"}  # formats without a length of their own, which FFmpeg estimates
SHORT = 0.5  # seconds that may be missing


def check(field: str, data: bytes) -> None:
    """Raises DamagedError if a shard's field does not decode from its first byte to its last."""
    handle = modalities.decode(field, data)
    kind = modalities.EXTENSIONS.get(field.lower().rpartition(".")[2])
    if kind == "image":
        decoded(handle)
    elif kind == "video":
        _play(data, {"video": NO_PICTURES, **({"audio": NO_SOUND} if Audio(data).is_there else {})})
    elif kind == "audio" and (plain := wav.read(data)) is None:
        _play(data, {"audio": NO_SOUND})
    elif kind == "audio" and plain is not None and not np.isfinite(wav.as_float(plain[0])).all():
        raise DamagedError("sound that is not finite")


def _play(data: bytes, tracks: dict[str, str]) -> None:
    """Plays each track (kind -> what it is called where it is missing), and compares the last end with the header's."""
    ends, promised = [], 0.0
    for kind, missing in tracks.items():
        with media.opened(data) as container:
            ends.append(_end(container, media.track(container, kind, missing), kind))
            if not GUESSED & set(container.format.name.split(",")):
                promised = (container.duration or 0) / 1_000_000
    if max(ends) < promised - SHORT:
        raise DamagedError("a video or sound that ends before its header says", f"{max(ends):.2f} of {promised:.2f} s")


def _end(container: Any, stream: Any, kind: str) -> float:
    """Returns when the last image or sound of a track ends, in seconds from the track's start."""
    end = None
    start = float((stream.start_time or 0) * stream.time_base)
    for stamp, frame in _frames(container, stream, kind):
        length = frame.samples / frame.sample_rate if kind == "audio" else media.step_of(stream)
        end = end if stamp is None else max(end or 0.0, stamp + length - start)
    if end is None:
        raise DamagedError(f"{kind} that does not decode")
    return end


def _frames(container: Any, stream: Any, kind: str) -> Iterator[tuple[float | None, Any]]:
    """Yields every image or stretch of sound with its time; DamagedError where it is corrupt or fails."""
    import av

    at, clock = 0.0, media.Clock()
    try:
        for packet in container.demux(stream):
            for frame in packet.decode():
                if packet.is_corrupt or frame.is_corrupt:
                    raise DamagedError(f"{kind} that is damaged within", f"at {at:.2f} s")
                stamp = clock(frame, stream)
                at = at if stamp is None else stamp
                yield stamp, frame
    except (av.FFmpegError, ValueError, OSError) as error:
        raise DamagedError(f"{kind} that is damaged within", f"after {at:.2f} s: {error}") from None
