"""One webdataset tar: its samples in order, or only their places, told from its headers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from mmssl.data.fields import Raw
from mmssl.data.members import BLOCK, BROKEN, META, Member, Tar, base_and_field, open_tar
from mmssl.data.patterns import is_local
from mmssl.data.unpack import CHUNK, UNPACKS, unpacked
from mmssl.data.user_files import hidden
from mmssl.errors import DamagedError
from mmssl.limits import check, limit

ENDS_EARLY = "the tar ends in the middle or is garbled"
TORN = "files of one sample that do not stand together in the tar; `mmssl shards build TAR OUT` joins them"
TOO_FEW = "the shard has fewer samples than expected"
CLOSED = "the shard cannot be opened"
NAMES = "a shard with more names than the limit shard_names"
LARGE_SAMPLE = "a sample larger than the limit sample_bytes"
LOST = {ENDS_EARLY, TOO_FEW, CLOSED, NAMES, UNPACKS}  # faults of many samples at once
OVERHEAD = 200  # bytes that Python needs to hold a name besides its letters

T = TypeVar("T")


@dataclass(slots=True)
class Entry:
    """One still encoded sample; or with `fault`, what is wrong with it or, without a key, with the shard."""

    key: str
    shard: str
    fields: Raw
    fault: str = ""
    number: int = -1  # within the shard; after Source has read it and knows all counts, within the set
    source: int = 0  # the number of its source, where several are mixed

    @property
    def size(self) -> int:
        """Returns its bytes."""
        return sum(map(len, self.fields.values()))


@dataclass(slots=True)
class Group(Generic[T]):
    """Neighbouring files of a tar with one key: field -> what was taken of it.

    fault: why the sample cannot be used; TORN where an earlier group of the same key has other fields, so that the two
    are one sample.
    """

    key: str
    fields: dict[str, T] = field(default_factory=dict)
    fault: str = ""
    names: set[str] = field(default_factory=set)  # of its fields, those of files that cannot be used included
    weight: int = 0  # bytes that it takes in the tar


Place = Group[tuple[int, int]]  # where the fields of a sample lie in a local tar: (offset, bytes)


def read_tar(url: str, *, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Entry]:
    """Yields samples start, start + step, ... before `stop`; a broken tar ends with an entry that tells the fault.

    A part of a sample that stands apart from its first is an entry with a fault and without fields, and so is a sample
    that exceeds a limit; nothing of it is held.
    """
    number, twins, fault = -1, list[str](), ""
    tar: Tar | None = None
    try:
        with _opened(url) as file:
            tar = Tar(unpacked(file))
            groups = _grouped(tar, tar.read, twins)
            for number, group in enumerate(itertools.islice(groups, stop)):
                if number >= start and (number - start) % step == 0:
                    yield Entry(group.key, url, {} if group.fault else group.fields, group.fault, number)
            if stop is None or number + 1 < stop:
                fault = "" if tar.whole else ENDS_EARLY
                file.close()  # here a command that failed says so
                if stop is not None:
                    fault = fault or TOO_FEW
    except DamagedError as error:
        fault = error.reason
    except BROKEN as error:
        fault = ENDS_EARLY if isinstance(error, EOFError) or (tar and tar.at) else CLOSED
    fault = fault or ("two files of a sample bear one name" if twins else "")
    if fault:
        yield Entry("", url, {}, fault)


@contextlib.contextmanager
def _opened(url: str) -> Iterator[Any]:
    """Opens a shard: only an address or a command goes to webdataset, which would take a file for one by its name."""
    if is_local(url):
        with open(url, "rb", CHUNK) as file:
            yield file
        return
    from webdataset.gopen import gopen

    stream = gopen(url)
    try:
        yield stream
    finally:
        with contextlib.suppress(OSError):  # a command whose output is no longer wanted complains
            stream.close()


def _grouped(members: Iterable[Member], take: Callable[[Member], T], twins: list[str]) -> Iterator[Group[T]]:
    """Yields neighbouring files with one key, as webdataset reads them.

    Of files that bear one name the first counts, and the others are noted. Behind a fault nothing more is taken.
    """
    seen, largest = _Seen(), limit("sample_bytes")
    group: Group[T] = Group("")
    for member in members:
        base, extension = base_and_field(member.name)
        if not base or META.match(member.name) or hidden(member.name):
            continue
        if base != group.key:
            if group.key:
                yield seen.judged(group)
            group = Group(base)
        group.weight += BLOCK + (0 if member.fault else member.size)
        if extension in group.names:
            twins.append(member.name)
        elif group.weight > largest:
            group.fault = group.fault or LARGE_SAMPLE
        else:
            group.names.add(extension)
            group.fault = group.fault or member.fault
            if not group.fault:
                group.fields[extension] = take(member)
    if group.key:
        yield seen.judged(group)


class _Seen:
    """The fields of each key that a tar has shown.

    A key that comes back with a field that it had before is another sample (two sets in one tar); with others only,
    it is a sample whose files do not stand together.
    """

    def __init__(self) -> None:
        self.fields: dict[str, frozenset[str]] = {}
        self.kinds: dict[frozenset[str], frozenset[str]] = {}  # one set for the many keys with the same fields
        self.bytes, self.most = 0, limit("shard_names")

    def judged(self, group: Group[T]) -> Group[T]:
        """Notes a group's fields, and whether they belong to a sample that came before.

        Raises DamagedError where that takes more memory than the limit.
        """
        mine, before = frozenset(group.names), self.fields.get(group.key)
        torn = before is not None and before.isdisjoint(mine)
        now = mine | before if torn and before else mine
        if torn:
            group.fault = group.fault or TORN
        new_kind = sum(map(len, now)) + OVERHEAD * len(now) if now not in self.kinds else 0
        self.bytes += len(group.key) + OVERHEAD + new_kind
        if self.bytes > self.most:
            check("shard_names", self.bytes, NAMES)
        self.fields[group.key] = self.kinds.setdefault(now, now)
        return group


def scan_tar(path: str | Path) -> Iterator[Place]:
    """Yields the places of a local uncompressed tar's samples, reading headers only; raises DamagedError if broken."""
    try:
        with open_tar(path) as tar:
            if tar.end is None:
                raise DamagedError("a compressed tar that is named as a plain one", str(path))
            yield from _grouped(tar, lambda member: (member.offset, member.size), [])
    except BROKEN:
        raise DamagedError(ENDS_EARLY, str(path)) from None
    if not tar.whole:
        raise DamagedError(ENDS_EARLY, str(path))
