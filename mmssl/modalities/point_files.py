"""The two text-headed formats of point clouds, PLY and PCD, as columns: property -> (N,)."""

from __future__ import annotations

import re

import numpy as np

from mmssl.errors import DamagedError
from mmssl.limits import check

Columns = dict[str, np.ndarray]
HEADER = 2**20  # bytes in which a header ends
PART = 2**20  # bytes of text that are read at a time
DIGITS = 1000  # of a number in text; Python takes seconds for those of a million
SPACE = re.compile(rb"\s")
TOO_WIDE = "a point cloud too wide to read"

PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
PLY_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


def read_ply(data: bytes) -> Columns:
    """Reads the vertices of a PLY file; other elements are passed over."""
    end = data.find(b"end_header", 0, HEADER)
    if not data.startswith(b"ply") or end < 0:
        raise DamagedError("not a PLY file")
    header, body = data[:end], data[end:].partition(b"\n")[2]
    lines = [line.split() for line in header.decode("ascii", "replace").splitlines()]
    kind = next((line[1] for line in lines if line[:1] == ["format"]), "")
    if kind not in PLY_ORDERS:
        raise DamagedError("a PLY file of unknown format", kind)
    elements, at = _ply_elements(lines, PLY_ORDERS[kind]), 0
    for name, count, fields in elements:
        if name == "vertex":
            break
        at = _ply_skip(body, at, count, fields, kind == "ascii")
    else:
        raise DamagedError("a PLY file without vertices")
    if fields is None:
        raise DamagedError("a PLY file with lists in its vertices")
    _check_size(count, len(fields))
    return _ascii(body[at:], count, fields) if kind == "ascii" else _binary(body[at:], count, fields)


Fields = list[tuple[str, str]]  # property -> numpy type, in the file's order


def _ply_elements(lines: list[list[str]], order: str) -> list[tuple[str, int, Fields | None]]:
    """Returns each element's name, count and properties; None for those of varying length."""
    elements: list[tuple[str, int, Fields | None]] = []
    for line in lines:
        if line[:1] == ["element"]:
            elements.append((line[1], _count(line[2]), []))
        elif line[:1] == ["property"]:
            name, count, fields = elements[-1]
            if line[1] == "list":
                elements[-1] = (name, count, None)
            elif fields is not None:
                fields.append((line[2], order + PLY_TYPES[line[1]]))
    return elements


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise DamagedError("damaged point cloud", f"{count} points")
    return count


def _ply_skip(body: bytes, at: int, count: int, fields: Fields | None, ascii: bool) -> int:
    """Returns where what follows an element begins."""
    if ascii:
        return _after_lines(body, at, count)
    if fields is None:
        raise DamagedError("a PLY file with lists before its vertices")
    check("cloud_columns", len(fields), TOO_WIDE)
    return at + count * np.dtype(fields).itemsize


def _after_lines(body: bytes, at: int, count: int) -> int:
    while (found := body.count(b"\n", at, at + PART)) < count:
        at, count = at + PART, count - found
        if at >= len(body):
            raise DamagedError("truncated point cloud")
    for _ in range(count):
        at = body.index(b"\n", at) + 1
    return at


def _check_size(count: int, columns: int) -> None:
    """Raises DamagedError for a header that claims more than the limits, before anything is made of it."""
    check("cloud_columns", columns, TOO_WIDE)
    check("cloud_values", count * columns, "a point cloud too large to read", f"{count} points of {columns} values")
    if not columns:
        raise DamagedError("points without coordinates", "it has no columns")


def _binary(body: bytes, count: int, fields: Fields) -> Columns:
    kind = np.dtype(fields)
    if len(body) < count * kind.itemsize:
        raise DamagedError("truncated point cloud")
    table = np.frombuffer(body, kind, count)
    return {name: table[name] for name, _ in fields}


def _ascii(body: bytes, count: int, fields: Fields) -> Columns:
    wanted = count * len(fields)
    if wanted > (len(body) + 1) // 2:  # a value takes a digit and a space
        raise DamagedError("truncated point cloud")
    values = _numbers(body, wanted)
    table = values.reshape(count, len(fields))
    return {name: _declared(table[:, i], name, np.dtype(kind)) for i, (name, kind) in enumerate(fields)}


def _numbers(text: bytes, wanted: int) -> np.ndarray:
    """Reads this many numbers, a part at a time: as Python's own they would take ten times their text."""
    values, read, at = np.empty(wanted), 0, 0
    while read < wanted:
        end = at + PART
        if space := SPACE.search(text, end, end + DIGITS):  # not within a number
            end = space.start()
        part = text[at:end].split(None, wanted - read)[: wanted - read]
        if part and max(map(len, part)) > DIGITS:
            raise DamagedError("damaged point cloud", f"a number of more than {DIGITS} digits")
        values[read : read + len(part)] = part
        read, at = read + len(part), end
        if at >= len(text) and read < wanted:
            raise DamagedError("truncated point cloud")
    return values


def _declared(column: np.ndarray, name: str, kind: np.dtype) -> np.ndarray:
    """Returns a column of text as whole numbers where it is declared so; decimals keep all digits that are written."""
    if kind.kind == "f":
        return column
    limits = np.iinfo(kind)
    if not ((column >= limits.min) & (column <= limits.max)).all():
        raise DamagedError("damaged point cloud", f"{name} does not fit {kind}")
    return column.astype(kind)


def write_ply(xyz: np.ndarray, color: np.ndarray | None, normal: np.ndarray | None) -> bytes:
    """Writes a binary little-endian PLY: x y z, then red green blue, then nx ny nz."""
    parts = [("x y z", xyz), ("red green blue", color), ("nx ny nz", normal)]
    table = _table({n: p[:, i] for names, p in parts if p is not None for i, n in enumerate(names.split())})
    names = {"<f4": "float", "<f8": "double", "|u1": "uchar"}
    properties = [f"property {names[table.dtype[name].str]} {name}" for name in table.dtype.names or ()]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(xyz)}", *properties, "end_header", ""]
    return "\n".join(header).encode() + table.tobytes()


def _table(columns: Columns) -> np.ndarray:
    """Lays columns out as rows, little-endian."""
    table = np.empty(len(columns["x"]), [(name, column.dtype.newbyteorder("<")) for name, column in columns.items()])
    for name, column in columns.items():
        table[name] = column
    return table


def read_pcd(data: bytes) -> Columns:
    """Reads a PCD file, ascii, binary or binary_compressed; packed colours become red, green, blue."""
    found = re.search(rb"^DATA[ \t]+(\w+)[ \t]*\r?\n", data[:HEADER], re.MULTILINE)
    if found is None:
        raise DamagedError("not a PCD file")
    lines = [line.split() for line in data[: found.start()].decode("ascii", "replace").splitlines()]
    head = {line[0]: line[1:] for line in lines if line and not line[0].startswith("#")}
    count = _count(head["POINTS"][0])
    body, way = data[found.end() :], found[1].decode()
    fields = _pcd_fields(head, count)
    if way == "ascii":
        columns = _ascii(body, count, fields)
    elif way == "binary":
        columns = _binary(body, count, fields)
    elif way == "binary_compressed":
        columns = _columnwise(body, count, fields)
    else:
        raise DamagedError("a PCD file of unknown format", way)
    return _unpack_color(columns)


def _pcd_fields(head: dict[str, list[str]], count: int) -> Fields:
    kinds = {"F": "<f", "I": "<i", "U": "<u"}
    fields: Fields = []
    repeats = [int(repeat) for repeat in head.get("COUNT", ["1"] * len(head["FIELDS"]))]
    if min(repeats, default=0) < 1:
        raise DamagedError("damaged point cloud", f"{min(repeats, default=0)} values in a field")
    _check_size(count, sum(repeats))
    for at, (name, size, kind, repeat) in enumerate(
        zip(head["FIELDS"], head["SIZE"], head["TYPE"], repeats, strict=True)
    ):
        for index in range(repeat):
            own = name if name != "_" and index == 0 else f"{name}{at}.{index}"
            fields.append((own, f"{kinds[kind]}{int(size)}"))
    return fields


def _columnwise(body: bytes, count: int, fields: Fields) -> Columns:
    packed, size = (int(n) for n in np.frombuffer(body, "<u4", 2))
    expected = count * sum(np.dtype(kind).itemsize for _, kind in fields)
    if size != expected or len(body) < 8 + packed:
        raise DamagedError("truncated point cloud")
    plain = _lzf(body[8 : 8 + packed], size)
    columns, at = {}, 0
    for name, kind in fields:
        columns[name] = np.frombuffer(plain, kind, count, at)
        at += columns[name].nbytes
    return columns


def _lzf(data: bytes, size: int) -> bytes:
    """Unpacks LZF (Lehmann's format): runs of literals, and copies from up to 8 kB back."""
    out, at = bytearray(), 0
    while at < len(data):
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[at]
            at += 1
        back = ((control & 31) << 8) + data[at] + 1
        at += 1
        start = len(out) - back
        if start < 0 or len(out) > size:
            raise DamagedError("damaged point cloud")
        chunk = bytes(out[start : start + length + 2])
        out += (chunk * ((length + 2) // len(chunk) + 1))[: length + 2]
    if len(out) != size:
        raise DamagedError("truncated point cloud")
    return bytes(out)


def _unpack_color(columns: Columns) -> Columns:
    """Splits rgb or rgba, one 32-bit number that PCL stores as a float, into three columns."""
    packed = columns.pop("rgb", columns.pop("rgba", None))
    if packed is None:
        return columns
    bits = packed.astype(np.uint32) if packed.dtype.kind != "f" else packed.astype(np.float32).view(np.uint32)
    if packed.dtype == np.float64:  # in a text PCL writes the number itself, as old files have it too
        number = (packed >= 1) & (packed < 2**32)
        bits[number] = packed[number].astype(np.uint32)
    for name, shift in (("red", 16), ("green", 8), ("blue", 0)):
        columns[name] = (bits >> shift & 255).astype(np.uint8)
    return columns


def write_pcd(xyz: np.ndarray, color: np.ndarray | None, normal: np.ndarray | None) -> bytes:
    """Writes a binary PCD: x y z, then colours packed into rgb, then normals."""
    columns = {name: xyz[:, i] for i, name in enumerate("xyz")}
    if color is not None:
        shades = (color if color.dtype == np.uint8 else np.round(color * 255)).astype(np.uint32)
        columns["rgb"] = (shades[:, 0] << 16 | shades[:, 1] << 8 | shades[:, 2]).view(np.float32)
    if normal is not None:
        columns.update({f"normal_{axis}": normal[:, i] for i, axis in enumerate("xyz")})
    table = _table(columns)
    header = [
        "VERSION .7",
        "FIELDS " + " ".join(columns),
        "SIZE " + " ".join(str(column.itemsize) for column in columns.values()),
        "TYPE" + " F" * len(columns),
        "COUNT" + " 1" * len(columns),
        f"WIDTH {len(xyz)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(xyz)}",
        "DATA binary",
        "",
    ]
    return "\n".join(header).encode() + table.tobytes()
