"""The files of a tar, told from its bytes: what a header claims is checked before anything is read, held or allocated.

tarfile believes headers: it reads names of gigabytes into memory, expands holes, and follows sizes backwards.
"""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mmssl.data.header import Header, read_header
from mmssl.data.unpack import CHUNK, PADDING, unpacked
from mmssl.limits import limit

BROKEN = (OSError, EOFError, tarfile.TarError)
BLOCK = tarfile.BLOCKSIZE
ZEROS = bytes(BLOCK)
HEADER = 2**20  # bytes of a long name, or of extended attributes, that are held
NAME = 4096  # bytes of a name, the longest that a system opens
META = re.compile(r"__[^/]*__($|/)")  # what webdataset skips
LARGE = "a file larger than the limit member_bytes"
LONG_NAME = "a file whose name is too long"
SPARSE = "a file with holes (GNU sparse), which is not read"
LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)


@dataclass(slots=True)
class Member:
    """A regular file of a tar: where its bytes lie in the unpacked tar, and why it is not to be read, if so."""

    name: str
    offset: int
    size: int
    fault: str = ""


class Tar:
    """The regular files of a tar, in one pass from its first byte on.

    whole: after the pass, whether the tar ended as one does: in blocks of zeros, and nothing behind them.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.at, self.whole = file, 0, False
        self.left = 0  # bytes up to the next header
        self.largest = limit("member_bytes")
        self.end = file.seek(0, io.SEEK_END) if file.seekable() else None
        if self.end is not None:
            file.seek(0)

    def __iter__(self) -> Iterator[Member]:
        """Yields each file; `read` is for the latest. Raises one of BROKEN where bytes are missing or do not unpack."""
        common = dict[str, str]()
        told = dict[str, str]()  # of the next file, by the headers before it
        while (header := self._header()) is not None:
            self.left = _padded(header.size)
            if header.type in LONG or header.type in PAX:
                (common if header.type == tarfile.XGLTYPE else told).update(self._told(header))
            else:
                if (member := self._member(header, {**common, **told} if common else told)) is not None:
                    yield member
                told = {}
            self._skip()

    def read(self, member: Member) -> bytes:
        """Returns the bytes of the file that was yielded last."""
        assert not member.fault, "what exceeds a limit is not read"
        data = self._take(member.size)
        self.left -= member.size
        return data

    def _header(self) -> Header | None:
        """Returns the next header; None at the end, or where there is no header."""
        block = self.file.read(BLOCK)
        start, self.at = self.at, self.at + len(block)
        if block == ZEROS:
            self.whole = self._only_zeros()
            return None
        try:
            header = read_header(block)
        except tarfile.HeaderError:
            if not start:
                raise
            return None
        return None if header.size < 0 else header

    def _member(self, header: Header, told: dict[str, str]) -> Member | None:
        """Returns the file of a header, if it is one, and sets what there is to skip."""
        size = _whole(told["size"]) if "size" in told else header.size
        has_data = header.is_file or header.type not in tarfile.SUPPORTED_TYPES
        self.left = _padded(size) if has_data else 0
        maps = header.maps
        while maps:  # one block of the holes' map after another
            maps = self._take(BLOCK)[504]
        if not header.is_file:
            return None
        name = told.get("path", header.name)
        sparse = header.type == tarfile.GNUTYPE_SPARSE or "holes" in told
        fault = SPARSE if sparse else LARGE if size > self.largest else ""
        if "long" in told or (4 * len(name) > NAME and len(name.encode("utf-8", "surrogateescape")) > NAME):
            name, fault = f"{name[:100]}~{name[-100:]}", LONG_NAME  # still a file of some sample
        return Member(name, self.at, size, fault)

    def _told(self, header: Header) -> dict[str, str]:
        """Returns what a header before a file's own says of it; no more of it is read than HEADER."""
        if header.size > HEADER:
            return {"long": ""}
        data = self._take(header.size)
        self.left -= header.size
        if header.type in LONG:
            name = data.partition(b"\0")[0].decode(tarfile.ENCODING, "surrogateescape")
            return {"path": name} if header.type == tarfile.GNUTYPE_LONGNAME else {}
        return dict(_records(data))

    def _take(self, size: int) -> bytes:
        if self.end is not None and self.at + size > self.end:
            raise EOFError
        data = self.file.read(size)
        self.at += len(data)
        if len(data) < size:
            raise EOFError
        return data

    def _skip(self) -> None:
        if self.end is None:
            while self.left:
                self.left -= len(self._take(min(self.left, CHUNK)))
        elif self.at + self.left > self.end:
            raise EOFError
        elif self.left:
            self.at = self.file.seek(self.at + self.left)
            self.left = 0

    def _only_zeros(self) -> bool:
        """Tells whether nothing but zeros follows, in whole blocks, and not without end."""
        start = self.at
        while block := self.file.read(CHUNK):
            self.at += len(block)
            if block.strip(b"\0") or self.at - start > PADDING:
                return False
        return self.at % BLOCK == 0


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise tarfile.ReadError("a size that is none")
    return int(text)


def _records(data: bytes) -> Iterator[tuple[str, str]]:
    """Yields what a pax header says of a file's name, size and holes."""
    at = 0
    while (length := data[at : at + 8].partition(b" ")[0]).isdigit() and int(length) > len(length):
        key, _, value = data[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        if key in (b"path", b"size"):
            yield key.decode(), value.decode("utf-8", "surrogateescape").rstrip("/")
        elif key.startswith(b"GNU.sparse."):
            yield "holes", ""
        at += int(length)


def base_and_field(name: str) -> tuple[str, str]:
    """Parts a file's name at the first dot behind its folders, as webdataset does; ("", "") for one without both."""
    folder, slash, last = name.rpartition("/")
    base, dot, extension = last.partition(".")
    return (folder + slash + base, extension.lower()) if base and dot else ("", "")


@contextlib.contextmanager
def open_tar(path: str | Path) -> Iterator[Tar]:
    """Opens a local tar, compressed or not."""
    with open(path, "rb", CHUNK) as file:
        yield Tar(unpacked(file))
