"""Tars that no tool would write: headers that lie, made by hand."""

from __future__ import annotations

import tarfile

BLOCK = 512
END = bytes(2 * BLOCK)


def header(
    name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, *, base256: bool = False, more: bytes = b""
) -> bytes:
    """Returns a header block that claims a size; more: what stands at its places 386 to 500, the map of holes."""
    if base256:
        number = b"\xff" + size.to_bytes(11, "big", signed=True) if size < 0 else b"\x80" + size.to_bytes(11, "big")
    else:
        number = b"%011o\0" % size
    front = name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + number + b"00000000000\0"
    middle = kind + bytes(100) + b"ustar  \0"
    back = bytes(386 - 148 - 8 - len(middle)) + more
    back = back.ljust(BLOCK - len(front) - 8 - len(middle), b"\0")
    whole = front + b" " * 8 + middle + back
    return front + b"%06o\0 " % sum(whole) + middle + back


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def member(name: str, data: bytes) -> bytes:
    return header(name, len(data)) + padded(data)


def extra(data: bytes, kind: bytes, *, claim: int | None = None) -> bytes:
    """Returns a header that tells of the next file: a long name, or pax records."""
    return header("././@LongLink", len(data) if claim is None else claim, kind) + padded(data)


def record(key: str, value: str) -> bytes:
    """Returns a pax record, whose length counts itself."""
    body = f" {key}={value}\n".encode()
    length = len(body) + len(str(len(body)))
    length = len(body) + len(str(length))
    return str(length).encode() + body


def pax(**told: str) -> bytes:
    return extra(b"".join(record(key.replace("__", "."), value) for key, value in told.items()), tarfile.XHDTYPE)


def octal(number: int) -> bytes:
    return b"%011o\0" % number
