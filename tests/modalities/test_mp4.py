"""Headers of MP4 videos that claim more than there is are refused before FFmpeg opens them, wherever they stand."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from mmssl.errors import DamagedError
from mmssl.modalities import mp4, video


def box(kind: bytes, data: bytes, *, long: bool = False) -> bytes:
    if long:
        return struct.pack(">I4sQ", 1, kind, 16 + len(data)) + data
    return struct.pack(">I4s", 8 + len(data), kind) + data


def table(samples: int) -> bytes:
    return box(b"stsz", struct.pack(">III", 0, 1, samples))


def run(samples: int) -> bytes:
    return box(b"trun", struct.pack(">II", 0, samples))


def compressed(data: bytes) -> bytes:
    return box(b"cmov", box(b"dcom", b"zlib") + box(b"cmvd", struct.pack(">I", len(data)) + zlib.compress(data)))


CLAIMS = {
    "table": lambda n: box(b"moov", box(b"trak", table(n))),
    "run": lambda n: box(b"moof", box(b"traf", run(n))),
    "both": lambda n: box(b"moov", table(n // 2)) + box(b"moof", run(n - n // 2)),
    "behind the images": lambda n: box(b"mdat", bytes(50)) + box(b"moov", table(n)),
    "in a long box": lambda n: box(b"moov", table(n), long=True),
    "in a box to the end": lambda n: b"\0\0\0\0moov" + table(n),
    "in a box that is cut": lambda n: b"\0\1\0\0moov" + table(n),
    "in another box": lambda n: box(b"udta", box(b"any1", table(n))),
    "compressed": lambda n: box(b"moov", compressed(table(n))),
}


@pytest.mark.parametrize("kind", CLAIMS)
@pytest.mark.parametrize("way", ["bytes", "path"])
def test_claims_are_found(tmp_path, kind, way):
    """As many samples as the file has bytes are believed, one more is not."""
    size = len(CLAIMS[kind](100))
    for claimed in (size, size + 1):
        data = CLAIMS[kind](claimed)
        assert len(data) - size in (0, 1, 2)  # compression varies
        claimed += len(data) - size
        data = CLAIMS[kind](claimed)
        (tmp_path / "film.mp4").write_bytes(data)
        raw = data if way == "bytes" else tmp_path / "film.mp4"
        if claimed > len(data):
            with pytest.raises(
                DamagedError, match=f"claims more than there is: {claimed} samples in {len(data)} bytes"
            ):
                mp4.check(raw)
        else:
            mp4.check(raw)


def test_pictures_claim_nothing(tmp_path):
    """What happens to stand in the images themselves, in free space or in other formats is no claim."""
    wild = table(2**31)
    mp4.check(box(b"mdat", wild) + box(b"free", wild))
    mp4.check(b"RIFF" + struct.pack("<I", 4000) + b"AVI " + wild)
    mp4.check(b"")
    (tmp_path / "empty.mp4").write_bytes(b"")
    mp4.check(tmp_path / "empty.mp4")
    with pytest.raises(DamagedError, match="too many parts"):
        mp4.check(box(b"free", b"") * (mp4.BOXES + 1))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 1.0])
def test_films_that_are_cut_are_not_refused_for_it(share):
    data = video.encode(np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8), fps=25)
    mp4.check(data[: int(share * len(data))])
