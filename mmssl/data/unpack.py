"""Compressed files, unpacked step by step: gzip, bzip2, xz, and zstd where Python has it (3.14)."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mmssl.limits import check

CHUNK = 2**20
STEP = 2**16  # bytes that are unpacked at once, and lost with what is damaged among them
DICTIONARY = 2**29  # bytes of memory that xz may ask for
PADDING = 2**26  # zeros that may follow a stream
UNPACKS = "a compressed shard that unpacks to more than the limit shard_bytes"


class _Gzip:
    """zlib's decompressor as those of bz2 and lzma are called."""

    def __init__(self) -> None:
        self.unpack = zlib.decompressobj(wbits=31)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unpack, name)

    @property
    def needs_input(self) -> bool:
        return not self.unpack.unconsumed_tail

    def decompress(self, data: bytes, most: int) -> bytes:
        return self.unpack.decompress(self.unpack.unconsumed_tail + data, most)


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=DICTIONARY)


# first bytes -> what unpacks a stream, and what opens a file that can be searched
PACKED: dict[bytes, tuple[Callable[[], Any], Callable[..., Any]]] = {
    b"\x1f\x8b": (_Gzip, gzip.open),
    b"BZh": (bz2.BZ2Decompressor, bz2.open),
    b"\xfd7zXZ\0": (_xz, lzma.open),
    b"]\0\0": (_xz, lzma.open),
}
if sys.version_info >= (3, 14):
    _zstd = importlib.import_module("compression.zstd")
    PACKED[b"\x28\xb5\x2f\xfd"] = (_zstd.ZstdDecompressor, _zstd.open)


def packing(head: bytes) -> tuple[Callable[[], Any], Callable[..., Any]] | None:
    """Returns what unpacks a file that begins so; None for one that is not compressed."""
    return next((how for magic, how in PACKED.items() if head.startswith(magic)), None)


def unpacked(file: Any) -> BinaryIO:
    """Returns a file's content to be read forwards, decompressed, or the file itself where it can be searched."""
    if isinstance(file, io.BufferedReader) and not packing(file.peek(8)):
        return file
    return io.BufferedReader(_Blocks(_blocks(file)), STEP)


class _Blocks(io.RawIOBase):
    """Blocks of bytes as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.blocks, self.block = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        while not self.block:
            if (block := next(self.blocks, None)) is None:
                return 0
            self.block = memoryview(block)
        count = min(len(into), len(self.block))
        into[:count], self.block = self.block[:count], self.block[count:]
        return count


def _blocks(file: Any) -> Iterator[bytes]:
    data = file.read(STEP)
    if how := packing(data):
        yield from _unpack(file, data, how[0])
        return
    while data:
        yield data
        data = file.read(CHUNK)


def _unpack(file: Any, data: bytes, new: Callable[[], Any]) -> Iterator[bytes]:
    """Yields what compressed streams hold, one behind the other.

    Raises DamagedError for more than the limit, EOFError for what is cut or does not unpack.
    """
    total, unpacker = 0, new()
    while True:
        try:
            block = unpacker.decompress(data, STEP)
        except Exception as error:  # each kind has its own
            raise EOFError(str(error)) from None
        check("shard_bytes", total := total + len(block), UNPACKS)
        yield block
        if unpacker.eof:
            data = _behind(file, unpacker.unused_data)
            if not data:
                return
            unpacker = new()
            continue
        data = file.read(STEP) if unpacker.needs_input else b""
        if not (block or data) and unpacker.needs_input:
            raise EOFError


def _behind(file: Any, data: bytes) -> bytes:
    """Returns what follows a compressed stream, but for zeros."""
    zeros = 0
    while not (rest := data.lstrip(b"\0")) and zeros <= PADDING:
        zeros += len(data)
        if not (data := file.read(STEP)):
            return b""
    return rest


def open_to_search(path: str | Path) -> Any:
    """Opens a file's content to be read from anywhere; what is compressed must have gone through `unpacked` before."""
    with open(path, "rb") as file:
        how = packing(file.read(8))
    return how[1](path) if how else open(path, "rb")
