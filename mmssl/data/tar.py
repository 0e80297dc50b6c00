"""One webdataset tar: its samples in order, or only their places, told from its headers."""

from __future__ import annotations

import contextlib
import itertools
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

from mmssl.data.fields import Raw
from mmssl.data.own_files import BROKEN, hidden
from mmssl.errors import DamagedError

META = re.compile(r"__[^/]*__($|/)")  # what webdataset skips
ENDS_EARLY = "the tar ends in the middle or is garbled"
TORN = "files of one sample that do not stand together in the tar; `mmssl shards build TAR OUT` joins them"
TOO_FEW = "the shard has fewer samples than expected"
CLOSED = "the shard cannot be opened"
LOST = {ENDS_EARLY, TOO_FEW, CLOSED}  # faults of many samples at once

T = TypeVar("T")


@dataclass(slots=True)
class Entry:
    """One still encoded sample; or with `fault`, what is wrong with it or, without a key, with the shard."""

    key: str
    shard: str
    fields: Raw
    fault: str = ""
    number: int = -1  # within the shard; after Source has read it and knows all counts, within the set

    @property
    def size(self) -> int:
        """Returns its bytes."""
        return sum(map(len, self.fields.values()))


@dataclass(slots=True)
class Place:
    """Where in a local tar the fields of a sample lie: field -> (offset, bytes).

    torn: whether an earlier place of the same key has other fields, so that the two are one sample.
    """

    key: str
    fields: dict[str, tuple[int, int]] = field(default_factory=dict)
    torn: bool = False


def read_tar(url: str, *, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Entry]:
    """Yields samples start, start + step, ... before `stop`; a broken tar ends with an entry that tells the fault.

    A part of a sample that stands apart from its first is an entry with a fault and without fields.
    """
    number, twins, fault = -1, list[str](), ""
    stream: _Stream | None = None
    try:
        with _opened(url) as stream:
            groups = _grouped(_read_members(stream), twins)
            for number, (key, fields, torn) in enumerate(itertools.islice(groups, stop)):
                if number >= start and (number - start) % step == 0:
                    yield Entry(key, url, {}, TORN, number=number) if torn else Entry(key, url, fields, number=number)
            if stop is None or number + 1 < stop:
                whole = stream.ends_well() if url.endswith(".tar") else True
                fault = "" if whole else ENDS_EARLY
                stream.close()  # here a command that failed says so
                if stop is not None:
                    fault = fault or TOO_FEW
    except BROKEN:
        fault = ENDS_EARLY if stream and stream.bytes else CLOSED
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
        whole = self.bytes % tarfile.BLOCKSIZE == 0
        return self.bytes > 0 and whole and not self.tail[-tarfile.BLOCKSIZE :].strip(b"\0")


@contextlib.contextmanager
def _opened(url: str) -> Iterator[_Stream]:
    from webdataset.gopen import gopen

    stream = _Stream(gopen(url))
    try:
        yield stream
    finally:
        with contextlib.suppress(OSError):  # a command whose output is no longer wanted complains
            stream.close()


def _is_field(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not META.match(member.name) and not hidden(member.name)


def _read_members(stream: _Stream) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=stream, mode="r|*") as tar:  # type: ignore[call-overload]
        for member in tar:
            tar.members = []  # else memory grows
            if _is_field(member):
                file = tar.extractfile(member)
                assert file, "a regular member"
                yield member.name, file.read()


def _grouped(files: Iterable[tuple[str, T]], twins: list[str]) -> Iterator[tuple[str, dict[str, T], bool]]:
    """Yields key, fields and whether they are torn off, of neighbouring files with one key, as webdataset reads them.

    Of files that bear one name the first counts, and the others are noted.
    """
    from webdataset.tariterators import base_plus_ext

    seen = _Seen()
    key: str | None = None
    fields: dict[str, T] = {}
    for name, value in files:
        base, extension = base_plus_ext(name)
        if base is None:
            continue
        if base != key:
            if key is not None:
                yield key, fields, seen.torn(key, fields)
            key, fields = base, {}
        if extension.lower() in fields:
            twins.append(name)
        fields.setdefault(extension.lower(), value)
    if key is not None:
        yield key, fields, seen.torn(key, fields)


class _Seen:
    """The fields of each key that a tar has shown.

    A key that comes back with a field that it had before is another sample (two sets in one tar); with others only,
    it is a sample whose files do not stand together.
    """

    def __init__(self) -> None:
        self.fields: dict[str, frozenset[str]] = {}
        self.kinds: dict[frozenset[str], frozenset[str]] = {}  # one set for the many keys with the same fields

    def torn(self, key: str, found: Iterable[str]) -> bool:
        """Notes a key's fields, and tells whether they belong to a sample that came before."""
        mine, before = frozenset(found), self.fields.get(key)
        torn = before is not None and before.isdisjoint(mine)
        now = mine | before if torn and before else mine
        self.fields[key] = self.kinds.setdefault(now, now)
        return torn


def scan_tar(path: str | Path) -> Iterator[Place]:
    """Yields the places of a local uncompressed tar's samples, reading headers only; raises DamagedError if broken."""
    try:
        with tarfile.open(path, "r:") as tar:
            for key, fields, torn in _grouped(_places(tar), []):
                yield Place(key, fields, torn)
            broken = _bad_end(path, tar.offset)
    except BROKEN:
        raise DamagedError(ENDS_EARLY, str(path)) from None
    if broken:
        raise DamagedError(ENDS_EARLY, str(path))


def _places(tar: tarfile.TarFile) -> Iterator[tuple[str, tuple[int, int]]]:
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # else memory grows
        if _is_field(member):
            yield member.name, (member.offset_data, member.size)


def _bad_end(path: str | Path, offset: int) -> bool:
    with open(path, "rb") as file:
        file.seek(offset)
        return not _Stream(file).ends_well()
