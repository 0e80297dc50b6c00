"""One webdataset tar: its samples in order, or only their places, told from its headers."""

from __future__ import annotations

import contextlib
import itertools
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from mmssl.data.fields import Raw
from mmssl.errors import DamagedError

BROKEN = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)
META = re.compile(r"__[^/]*__($|/)")  # what webdataset skips
ENDS_EARLY = "the tar ends in the middle or is garbled"


@dataclass(slots=True)
class Entry:
    """One still encoded sample; or, with `fault`, what is wrong with the shard from there on."""

    key: str
    shard: str
    fields: Raw
    fault: str = ""
    number: int = -1  # within the shard; after Source has read it and knows all counts, within the set

    @property
    def size(self) -> int:
        """Returns its bytes."""
        return sum(map(len, self.fields.values()))


def read_tar(url: str, *, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Entry]:
    """Yields samples start, start + step, ... before `stop`; a broken tar ends with an entry that tells the fault."""
    number, twins, fault = -1, list[Exception](), ""
    try:
        with _opened(url) as stream:
            for number, group in enumerate(itertools.islice(_groups(stream, url, twins), stop)):
                if number >= start and (number - start) % step == 0:
                    key = group.pop("__key__")
                    del group["__url__"]
                    yield Entry(key, url, group, number=number)
            if stop is None or number + 1 < stop:
                whole = stream.ends_well() if url.endswith(".tar") else True
                fault = "" if whole else ENDS_EARLY
                stream.close()  # here a command that failed says so
                if stop is not None:
                    fault = fault or "the shard has fewer samples than expected"
    except BROKEN as error:
        fault = "the shard cannot be opened" if number < 0 and isinstance(error, OSError) else ENDS_EARLY
    fault = fault or ("two files of a sample bear one name" if twins else "")
    if fault:
        yield Entry("", url, {}, fault)


class _Stream:
    """An opened shard that remembers how it ended: tarfile takes a garbled or cut header for the end."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.bytes, self.tail = file, 0, b""
        self.close = file.close

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.bytes += len(data)
        self.tail = data or self.tail
        return data

    def ends_well(self) -> bool:
        """Tells whether nothing but zeros follows what was read, and the last block is one of zeros."""
        while block := self.file.read(1 << 20):
            if block.strip(b"\0"):
                return False
            self.bytes += len(block)
            self.tail = block
        return self.bytes % tarfile.BLOCKSIZE == 0 and not self.tail[-tarfile.BLOCKSIZE :].strip(b"\0")


@contextlib.contextmanager
def _opened(url: str) -> Iterator[_Stream]:
    from webdataset.gopen import gopen

    stream = _Stream(gopen(url))
    try:
        yield stream
    finally:
        with contextlib.suppress(OSError):  # a command whose output is no longer wanted complains
            stream.close()


def _groups(stream: _Stream, url: str, twins: list[Exception]) -> Iterator[dict[str, Any]]:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    def keep_first(error: Exception) -> bool:
        twins.append(error)
        return True

    files = ({**file, "__url__": url} for file in tar_file_iterator(stream))
    return group_by_keys(files, handler=keep_first)


@dataclass(slots=True)
class Place:
    """Where in a local tar the fields of a sample lie: field -> (offset, bytes)."""

    key: str
    fields: dict[str, tuple[int, int]] = field(default_factory=dict)


def scan_tar(path: str | Path) -> Iterator[Place]:
    """Yields the places of a local uncompressed tar's samples, reading headers only; raises DamagedError if broken."""
    from webdataset.tariterators import base_plus_ext

    place: Place | None = None
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else memory grows
                base, extension = base_plus_ext(member.name) if member.isreg() else (None, None)
                if base is None or extension is None or META.match(member.name):
                    continue
                if place is None or place.key != base:
                    if place is not None:
                        yield place
                    place = Place(base)
                place.fields.setdefault(extension.lower(), (member.offset_data, member.size))
            broken = _bad_end(path, tar.offset)
    except BROKEN:
        raise DamagedError(ENDS_EARLY, str(path)) from None
    if place is not None:
        yield place
    if broken:
        raise DamagedError(ENDS_EARLY, str(path))


def _bad_end(path: str | Path, offset: int) -> bool:
    with open(path, "rb") as file:
        file.seek(offset)
        return not _Stream(file).ends_well()
