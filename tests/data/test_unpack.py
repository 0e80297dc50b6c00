"""Compressed shards: what the tools write is read, in steps that take little memory; damage is noticed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import END, member

from mmssl.data import unpack
from mmssl.data.members import BROKEN
from mmssl.data.tar import ENDS_EARLY, read_tar
from mmssl.data.unpack import open_to_search, unpacked

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "plain": bytes,
}
DATA = random.Random(0).randbytes(10_000) + bytes(3 * 2**20) + b"end"


def read(data: bytes) -> bytes:
    return unpacked(io.BytesIO(data)).read()


@pytest.mark.parametrize("kind", PACK)
def test_is_what_was_packed(tmp_path: Path, kind: str) -> None:
    packed = PACK[kind](DATA)
    assert read(packed) == DATA
    (tmp_path / "x").write_bytes(packed)
    with open(tmp_path / "x", "rb") as file:
        assert unpacked(file).read() == DATA
    with open_to_search(tmp_path / "x") as file:
        file.seek(len(DATA) - 3)
        assert file.read() == b"end"
        file.seek(5)
        assert file.read(7) == DATA[5:12]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_streams_one_behind_the_other(kind: str) -> None:
    """As pigz, bgzip and pbzip2 write them; xz pads with zeros."""
    first, second = PACK[kind](DATA), PACK[kind](b"more")
    assert read(first + second + bytes(8)) == DATA + b"more"
    with pytest.raises(BROKEN):
        read(first + b"more")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "lzma"])
def test_damage(tmp_path: Path, kind: str) -> None:
    tar = member("a.txt", b"first") + member("b.bin", random.Random(0).randbytes(100_000)) + END
    packed = PACK[kind](tar)
    (tmp_path / "whole").write_bytes(packed)
    assert [(e.key, e.fault) for e in read_tar(str(tmp_path / "whole"))] == [("a", ""), ("b", "")]
    (tmp_path / "cut").write_bytes(packed[: len(packed) // 2])
    assert list(read_tar(str(tmp_path / "cut")))[-1].fault == ENDS_EARLY
    middle = len(packed) // 2
    (tmp_path / "bent").write_bytes(packed[:middle] + bytes(64) + packed[middle + 64 :])
    found = list(read_tar(str(tmp_path / "bent")))
    assert kind == "lzma" or found[-1].fault == ENDS_EARLY, "lzma has no checksum"


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_unpacks_in_steps(kind: str) -> None:
    bomb = PACK[kind](bytes(2**24))
    assert len(bomb) < 20_000
    file = unpacked(io.BytesIO(bomb))
    tracemalloc.start()
    try:
        total = 0
        while block := file.read(10_000):
            total += len(block)
        assert total == 2**24
        assert tracemalloc.get_traced_memory()[1] < 10_000_000, "xz looks back 8 MiB"
    finally:
        tracemalloc.stop()


def test_a_dictionary_of_gigabytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**25}]
    packed = lzma.compress(DATA, filters=filters)
    assert read(packed) == DATA
    monkeypatch.setattr(unpack, "DICTIONARY", 2**24)
    with pytest.raises(EOFError, match=r"[Mm]emory"):
        read(packed)


def test_zeros_behind_a_stream_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "PADDING", 2**21)

    class Endless(io.RawIOBase):
        left = gzip.compress(b"x")

        def read(self, size: int = -1) -> bytes:
            given, self.left = self.left or bytes(size), b""
            return given

    assert unpacked(Endless()).read() == b"x"
