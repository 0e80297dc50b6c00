"""What the headers of an MP4 or QuickTime video claim, looked at before FFmpeg opens it.

FFmpeg makes an index of as many samples as they claim, before it looks whether these are there: 24 bytes each.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from mmssl.errors import DamagedError

PASSED = (b"mdat", b"free", b"skip", b"wide")  # boxes that FFmpeg does not look into
BOXES = 10**6  # one after the other; a long video in fragments has tens of thousands
COMPRESSED = 2**26  # bytes of a compressed header that are looked at


def check(data: bytes | Path) -> None:
    """Raises DamagedError for a header that claims more images or sounds than the file has bytes."""
    if isinstance(data, bytes):
        _check(data)
    elif data.stat().st_size:
        with open(data, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            _check(mapped)


def _check(data: bytes | mmap.mmap) -> None:
    claimed = sum(_claims(data, start, end) for start, end in _headers(data))
    if claimed > len(data):
        raise DamagedError("a video whose header claims more than there is", f"{claimed} samples in {len(data)} bytes")


def _headers(data: bytes | mmap.mmap) -> Iterator[tuple[int, int]]:
    """Yields where the outermost boxes begin and end that can hold claims."""
    at = 0
    for _ in range(BOXES):
        if at + 8 > len(data):
            return
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if length == 1 and at + 16 <= len(data):
            (length,) = struct.unpack(">Q", data[at + 8 : at + 16])
        end = at + length if length else len(data)
        if length and length < 8:
            end = at + 4  # as FFmpeg looks for the next box
        elif kind not in PASSED and all(32 <= byte < 127 for byte in kind):
            yield at, min(end, len(data))
        at = end
    raise DamagedError("a video in too many parts", f"more than {BOXES}")


def _claims(data: bytes | mmap.mmap, start: int, end: int) -> int:
    """Adds up the samples of all tables (stsz) and runs (trun) within a box, however deep."""
    total = 0
    for kind, place in ((b"stsz", 12), (b"trun", 8)):
        at = data.find(kind, start, end)
        while at >= 0:
            count = data[at + place : at + place + 4]
            total += int.from_bytes(count, "big") if len(count) == 4 else 0
            at = data.find(kind, at + 4, end)
    at = data.find(b"cmvd", start, end)
    if at >= 0:
        try:
            plain = zlib.decompressobj().decompress(data[at + 8 : end], COMPRESSED)
        except zlib.error:
            return total
        total += _claims(plain, 0, len(plain))
    return total
