"""The header block of a tar's file. Plain ones, which nearly all are, are read here, and all others by tarfile.

What tarfile refuses is refused, and what it reads is read as it reads it: tests/data/test_header.py compares them.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from typing import NamedTuple

SHORT = rb"[0-7]{6}[0-7 ][\0 ]"  # a number of 8 bytes
LONG = rb"[0-7]{11}[\0 ]"
# from byte 100 on: mode, user, group; size; time; checksum; type: a file, pax records or a long name
PLAIN = re.compile(rb"(?:%b){3}(%b)%b([0-7]{6})[\0 ]{2}([0xgL])" % (SHORT, LONG, LONG))
DEVICE = re.compile(rb"\0{16}|(?:%b){2}" % SHORT)  # from byte 329 on
CHECKSUM = slice(148, 156)


class Header(NamedTuple):
    """What a header says: type, one of tarfile's; maps: whether a map of holes follows."""

    name: str
    size: int
    type: bytes
    maps: int = 0

    @property
    def is_file(self) -> bool:
        """Whether it is one of a file's content, and not of a folder, a link, ..."""
        return self.type in tarfile.REGULAR_TYPES


def read_header(block: bytes) -> Header:
    """Reads a block of 512 bytes; raises tarfile.HeaderError where it is no header."""
    plain = PLAIN.match(block, 100) if len(block) == tarfile.BLOCKSIZE else None
    if not plain or not DEVICE.match(block, 329) or int(plain[2], 8) != _sum(block):
        return _by_tarfile(block)
    name = _text(block[:100])
    if block[345] and plain[3] != tarfile.GNUTYPE_LONGNAME:
        name = f"{_text(block[345:500])}/{name}"
    return Header(name, int(plain[1][:11], 8), plain[3])


def _by_tarfile(block: bytes) -> Header:
    info = tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    return Header(info.name, info.size, info.type, block[482] if info.type == tarfile.GNUTYPE_SPARSE else 0)


def _sum(block: bytes) -> int:
    """Returns the sum of the bytes, with spaces for the checksum; Adler's low half is that of 256 bytes and 1."""
    first, second = zlib.adler32(block[:256]) & 0xFFFF, zlib.adler32(block[256:]) & 0xFFFF
    return first + second - 2 - sum(block[CHECKSUM]) + 8 * ord(" ")


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(tarfile.ENCODING, "surrogateescape")
