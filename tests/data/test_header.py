"""A header is read as tarfile reads it, or refused as tarfile refuses it, whatever was done to it."""

from __future__ import annotations

import random
import tarfile
from collections import Counter

import pytest
from hostile import BLOCK, header

from mmssl.data import header as headers
from mmssl.data.header import Header, read_header


def made() -> list[bytes]:
    """Returns headers of each kind that tools write."""
    found = [header("a.txt", 5), header("d/ü.txt", 2**33 - 1), header("b.txt", 2**40, base256=True)]
    found += [
        header("c.txt", 8, kind)
        for kind in (b"\0", b"1", b"2", b"3", b"5", b"7", b"x", b"g", b"L", b"K", b"X", b"S", b"Q")
    ]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT):
        for name in ("e.txt", "n" * 100, "p" * 90 + "/" + "q" * 90, "folder/"):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.gid = 77, 1_700_000_000, 1000, 1000
            info.uname, info.gname = "someone", "some"
            found += [info.tobuf(form)[-BLOCK:]]
    bsd = bytearray(header("f.txt", 9))  # numbers as BSD's tar writes them
    bsd[100:124] = b"000644 \0" + 2 * b"000000 \0"
    bsd[124:148] = b"00000000011 00000000000 "
    found += [summed(bsd), summed(bytearray(header("folder/", 0, b"\0")))]
    return found


def summed(block: bytearray, *, signed: bool = False) -> bytes:
    """Returns the block with its checksum, of bytes or of signed bytes, as some old tars have it."""
    block[148:156] = b" " * 8
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % (total & 0o777777)
    return bytes(block)


def by_tarfile(block: bytes) -> Header | str:
    try:
        info = tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError as error:
        return type(error).__name__
    return Header(info.name, info.size, info.type, block[482] if info.type == tarfile.GNUTYPE_SPARSE else 0)


def ours(block: bytes) -> Header | str:
    try:
        return read_header(block)
    except tarfile.HeaderError as error:
        return type(error).__name__


def test_plain_headers_take_no_tarfile(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [by_tarfile(block) for block in made()]
    assert [ours(block) for block in made()] == expected
    asked: list[bytes] = []
    monkeypatch.setattr(headers, "_by_tarfile", lambda block: asked.append(block[156:157]))
    list(map(ours, made()))
    assert b"".join(asked) == b"0" + b"\0" + b"1235" + b"7KXSQ" + b"\0"


@pytest.mark.parametrize("kind", ["any byte", "checksum right", "checksum of signed bytes", "cut"])
def test_changed_headers_are_read_as_tarfile_reads_them(kind: str) -> None:
    draw, seen = random.Random(kind), Counter[str]()
    whole = made()
    numbers = b"0123456789 \0-+_x\x80\xff\x01"
    for _ in range(3000):
        block = bytearray(draw.choice(whole))
        for _ in range(draw.choice([1, 1, 2, 5])):
            place = draw.choice([draw.randrange(BLOCK), draw.randrange(100, 160), draw.randrange(329, 347)])
            block[place] = draw.choice([draw.randrange(256), *draw.choices(numbers, k=3)])
        if kind == "cut":
            del block[draw.randrange(BLOCK) :]
        elif kind != "any byte":
            block = bytearray(summed(block, signed="signed" in kind))
        expected = by_tarfile(bytes(block))
        seen["refused" if isinstance(expected, str) else "read"] += 1
        assert ours(bytes(block)) == expected
    if kind.startswith("checksum"):
        assert min(seen["read"], seen["refused"]) > 500, "both outcomes are compared"
