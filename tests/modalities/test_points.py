"""Clouds survive every format, and damage is named."""

import io
import random
from contextlib import suppress

import numpy as np
import pytest
import torch

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import points
from mmssl.modalities.points import Cloud


def cloud(count=50, seed=0):
    rng = np.random.default_rng(seed)
    color = rng.integers(0, 256, (count, 3), dtype=np.uint8)
    return Cloud(rng.normal(size=(count, 3)), color, rng.normal(size=(count, 3)))


def same(one, other):
    assert np.allclose(one.xyz, other.xyz, atol=1e-6)
    for a, b in ((points.as_float(one.color), points.as_float(other.color)), (one.normal, other.normal)):
        assert (a is None) == (b is None)
        assert a is None or np.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("format", points.EXTENSIONS)
def test_written_clouds_read_back(format, tmp_path):
    for sent in (cloud(), Cloud(cloud().xyz), Cloud(cloud().xyz, cloud().color)):
        (tmp_path / f"a.{format}").write_bytes(points.encode(sent, format=format))
        same(points.load(tmp_path / f"a.{format}"), sent)


def test_array_columns():
    rows = torch.cat([torch.from_numpy(cloud().xyz), torch.from_numpy(points.as_float(cloud().color))], dim=1)
    same(points.load(rows), Cloud(cloud().xyz, cloud().color))
    assert points.load(rows.numpy()[:, :3]).color is None


PLY = "ply\nformat {} 1.0\ncomment odd order\nelement face 0\nproperty list uchar int vertex_indices\n"
PLY += "element vertex 50\nproperty double z\nproperty uchar blue\nproperty float x\nproperty uchar red\n"
PLY += "property short extra\nproperty uchar green\nproperty float y\nend_header\n"


@pytest.mark.parametrize("order", ["<", ">", "ascii"])
def test_ply_of_any_order(order):
    sent = cloud()
    kinds = [("z", "f8"), ("blue", "u1"), ("x", "f4"), ("red", "u1"), ("extra", "i2"), ("green", "u1"), ("y", "f4")]
    table = np.zeros(50, [(name, kind if order == "ascii" else order + kind) for name, kind in kinds])
    for i, axis in enumerate("xyz"):
        table[axis] = sent.xyz[:, i]
    for i, shade in enumerate(("red", "green", "blue")):
        table[shade] = sent.color[:, i]
    rows = "\n".join(" ".join(repr(value) for value in row.tolist()) for row in table).encode()
    name = {"<": "binary_little_endian", ">": "binary_big_endian", "ascii": "ascii"}[order]
    header = PLY.format(name)
    if order != "ascii":  # an element of no items but varying length cannot be passed over in binary
        header = header.replace("element face 0\nproperty list uchar int vertex_indices\n", "")
    data = header.encode() + (rows if order == "ascii" else table.tobytes())
    same(points.decode(data, "ply"), Cloud(sent.xyz, sent.color))


def compressed(plain):
    """Packs LZF the plain way: literals of 8 bytes, and back references where bytes repeat."""
    out, at = bytearray(), 0
    while at < len(plain):
        run = plain[at : at + 8]
        if at >= 8 and plain[at : at + 8] == plain[at - 8 : at]:
            length = 8
            while at + length < len(plain) and plain[at + length] == plain[at + length - 8] and length < 264:
                length += 1
            out += bytes([7 << 5, length - 9, 7]) if length > 8 else bytes([(length - 2) << 5, 7])
            at += length
        else:
            out += bytes([len(run) - 1]) + run
            at += len(run)
    return bytes(out)


@pytest.mark.parametrize("way", ["ascii", "binary", "binary_compressed"])
def test_pcd_of_every_kind(way):
    sent = Cloud(np.repeat(cloud(8).xyz, 8, axis=0), np.repeat(cloud(8).color, 8, axis=0))
    plain = points.encode(sent, format="pcd")
    header, _, body = plain.partition(b"DATA binary\n")
    table = np.frombuffer(body, "<f4").reshape(64, 4)
    if way == "ascii":
        body = "\n".join(" ".join(f"{value:.9g}" for value in row) for row in table).encode()
    elif way == "binary_compressed":
        columns = np.ascontiguousarray(table.T).tobytes()
        packed = compressed(columns)
        assert len(packed) < len(columns) // 2
        body = np.array([len(packed), len(columns)], "<u4").tobytes() + packed
    same(points.decode(header + f"DATA {way}\n".encode() + body, "pcd"), sent)


def test_unusable_clouds_are_damaged():
    with pytest.raises(DamagedError, match="without points: 5 are not finite"):
        points.load(np.full((5, 3), np.nan))
    for strange in (np.zeros((5, 3), complex), np.full((5, 3), "a"), np.zeros((5, 3), object)):
        with pytest.raises(DamagedError, match="coordinates of a wrong shape"):
            points.load(strange)
    with pytest.raises(DamagedError, match="without points"):
        Cloud(np.zeros((0, 3)))
    with pytest.raises(DamagedError, match="wrong shape"):
        Cloud(np.zeros((5, 3)), normal=np.zeros((4, 3)))
    with pytest.raises(DamagedError, match="truncated"):
        points.decode(points.encode(cloud())[:-1], "ply")
    stream = io.BytesIO()
    np.save(stream, np.array([{}]), allow_pickle=True)
    with pytest.raises(DamagedError):
        points.decode(stream.getvalue(), "npy")


def test_mistakes():
    for mistake in (
        lambda: points.load(3),
        lambda: points.encode(cloud(), format="obj"),
        lambda: points.decode(b"", "obj"),
    ):
        with pytest.raises(UserError):
            mistake()
    with pytest.raises(UserError, match="npz"):
        points.encode(Cloud(cloud().xyz, normal=cloud().normal), format="npy")


@pytest.mark.parametrize("format", points.EXTENSIONS)
def test_flipped_bytes_give_points_or_damage(format):
    data, rng = points.encode(cloud(), format=format), random.Random(0)
    for trial in range(150):
        wrong = bytearray(data if trial % 2 else data[: rng.randrange(len(data))])
        for _ in range(min(len(wrong), 4)):
            wrong[rng.randrange(min(len(wrong), 300 if trial % 3 else len(wrong)))] = rng.randrange(256)
        with suppress(DamagedError):
            assert np.isfinite(points.decode(bytes(wrong), format).xyz).all()


def columns_of(xyz, **more):
    """Returns property -> column, as files have them."""
    return {**dict(zip("xyz", np.asarray(xyz).T, strict=True)), **more}


def text(columns):
    return "\n".join(
        " ".join(repr(value) for value in row) for row in zip(*map(np.ndarray.tolist, columns.values()), strict=True)
    )


def as_ply(columns, order, declared=None):
    """Writes columns as PLY: ascii where there is no byte order; declared: the type that the header claims."""
    names = {"f4": "float", "f8": "double", "u1": "uchar", "u2": "ushort", "i4": "int", "u4": "uint"}
    kinds = {name: column.dtype.str[1:] for name, column in columns.items()}
    lines = [f"property {declared or names[kind]} {name}" for name, kind in kinds.items()]
    form = {"": "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}[order]
    count = len(columns["x"])
    head = "\n".join(["ply", f"format {form} 1.0", f"element vertex {count}", *lines, "end_header", ""]).encode()
    return head + (table(columns, order).tobytes() if order else text(columns).encode())


def table(columns, order="<"):
    rows = np.empty(len(columns["x"]), [(name, order + column.dtype.str[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        rows[name] = column
    return rows


def as_pcd(columns, way, size=(0, 0)):
    kinds = [column.dtype.str[1:] for column in columns.values()]
    lines = {
        "FIELDS": columns,
        "SIZE": [kind[1] for kind in kinds],
        "TYPE": [kind[0].upper() for kind in kinds],
        "COUNT": "1" * len(kinds),
        "WIDTH": [str(size[0] or len(columns["x"]))],
        "HEIGHT": [str(size[1] or 1)],
        "POINTS": [str(len(columns["x"]))],
        "DATA": [way],
    }
    body = table(columns).tobytes() if way == "binary" else text(columns).encode()
    if way == "binary_compressed":
        plain = b"".join(column.tobytes() for column in columns.values())
        packed = compressed(plain)
        body = np.array([len(packed), len(plain)], "<u4").tobytes() + packed
    return "".join(f"{name} {' '.join(words)}\n" for name, words in lines.items()).encode() + body


def saved(save, *arrays, **named):
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


def read_every_way(xyz):
    """Yields a cloud of coordinates (N, 3) float64 by every way that it can come in with their precision."""
    columns = columns_of(xyz)
    for order in ("", "<", ">"):
        yield f"ply {order}", points.decode(as_ply(columns, order), "ply")
    yield "ply text, declared float", points.decode(as_ply(columns, "", declared="float"), "ply")
    for way in ("ascii", "binary", "binary_compressed"):
        yield f"pcd {way}", points.decode(as_pcd(columns, way), "pcd")
    yield "npz", points.decode(saved(np.savez, xyz=xyz), "npz")
    yield "npy", points.decode(saved(np.save, xyz), "npy")
    for name, raw in {"array": xyz, "big-endian": xyz.astype(">f8"), "tensor": torch.from_numpy(xyz)}.items():
        yield name, points.load(raw)
    yield "cloud", Cloud(xyz)


UTM = np.array([448_262.0, 5_411_932.0, 312.0])


def test_far_coordinates_keep_their_precision():
    """In float32, 1,000 points of a metre's width in UTM have 33 x and 3 y."""
    xyz = UTM + np.random.default_rng(0).uniform(0, 1, (1000, 3))
    assert len(np.unique(xyz[:, 0].astype(np.float32))) < 40
    for way, read in read_every_way(xyz):
        assert read.xyz.dtype == np.float64, way
        assert np.array_equal(read.xyz, xyz), way
        assert np.array_equal(read.pick(np.arange(5)).xyz, xyz[:5]), way
    for format in points.EXTENSIONS:
        for sent in (Cloud(xyz), Cloud(xyz, np.zeros((1000, 3), np.uint8), np.ones((1000, 3)))):
            assert np.array_equal(points.decode(points.encode(sent, format=format), format).xyz, xyz), format


def test_near_coordinates_are_float32():
    xyz = np.random.default_rng(0).normal(size=(100, 3)) * 1000
    for way, read in read_every_way(xyz):
        assert read.xyz.dtype == np.float32, way
        assert np.array_equal(read.xyz, xyz.astype(np.float32)), way
    edge = np.nextafter(np.float32(points.FAR), np.float32(0))
    assert points.FAR - edge < 1e-3 < np.spacing(np.float32(points.FAR)), "float32 holds a millimetre up to there"
    for sign in (1, -1):
        assert Cloud(np.array([[0, 0, sign * edge]])).xyz.dtype == np.float32
        assert Cloud(np.array([[0, sign * points.FAR, 0]])).xyz.dtype == np.float64


HOLES = (0, 7, 8, 19)


def organised():
    """Five rows of four pixels of a depth camera, nothing in four of them; grey tells the pixel."""
    xyz, grey = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32), np.arange(20, dtype=np.uint8)
    xyz[list(HOLES[:3])], xyz[HOLES[3], 2] = np.nan, np.inf
    return xyz, np.stack([grey] * 3, axis=1), -xyz


def with_holes():
    xyz, color, normal = organised()
    shades = dict.fromkeys(("red", "green", "blue"), color[:, 0])
    normals = dict(zip(("nx", "ny", "nz"), normal.T, strict=True))
    packed = (color[:, 0].astype(np.uint32) * 0x10101).view(np.float32)
    columns = columns_of(xyz)
    for order in ("", "<", ">"):
        yield f"ply {order}", points.decode(as_ply({**columns, **shades, **normals}, order), "ply")
    normals = {f"normal_{name[1]}": column for name, column in normals.items()}
    for way in ("ascii", "binary", "binary_compressed"):
        made = as_pcd({**columns, "rgb": packed, **normals}, way, size=(4, 5))
        yield f"pcd {way}", points.decode(made, "pcd")
    yield "npz", points.decode(saved(np.savez, xyz=xyz, color=color, normal=normal), "npz")
    yield "npy", points.decode(saved(np.save, np.concatenate([xyz, color, normal], axis=1)), "npy")
    rows = np.concatenate([xyz, color, normal], axis=1)
    rows[list(HOLES), 3:6] = np.nan  # colours too may be missing where nothing came back
    yield "array", points.load(rows)
    yield "tensor", points.load(torch.from_numpy(rows))
    yield "cloud", Cloud(xyz, color, normal)


def test_points_where_nothing_came_back_are_dropped_and_counted():
    xyz, color, normal = organised()
    kept = np.delete(np.arange(20), HOLES)
    for way, read in with_holes():
        assert read.dropped == 4, way
        assert read.pick(np.arange(3)).dropped == 4, way
        assert np.array_equal(read.xyz, xyz[kept]), way
        assert np.array_equal(read.color, color[kept]), way
        assert np.array_equal(read.normal, normal[kept]), way
    assert cloud().dropped == 0
    assert Cloud(np.array([[1e300, 0, 0], [1, 2, 3]])).xyz.tolist() == [[1, 2, 3]], "what float32 cannot hold"
    lost = cloud().normal
    lost[3, 1] = np.nan
    assert len(Cloud(cloud().xyz, normal=lost)) == 49, "a normal that is not finite would make a network's loss so"


def colors_as(numbers):
    """Yields colours (N, 3) as every source has them, under every name."""
    for names in ("red green blue", "r g b", "diffuse_red diffuse_green diffuse_blue", "Red Green Blue"):
        more = dict(zip(names.split(), numbers.T, strict=True))
        columns = columns_of(cloud(len(numbers)).xyz, **more)
        for order in ("", "<", ">"):
            yield points.decode(as_ply(columns, order), "ply").color
        for way in ("ascii", "binary"):
            yield points.decode(as_pcd(columns, way), "pcd").color
    yield points.decode(saved(np.savez, xyz=cloud(len(numbers)).xyz, color=numbers), "npz").color
    yield Cloud(cloud(len(numbers)).xyz, numbers).color


EIGHT = np.arange(0, 255, 5).repeat(3).reshape(-1, 3) + np.array([0, 0, 1])
WIDTHS = [(EIGHT, kind) for kind in ("u1", "u2", "i4", "f4", "f8")]
WIDTHS += [(EIGHT * 256, kind) for kind in ("u2", "i4", "u4", "f4", "f8")]
WIDTHS += [(EIGHT * 257, kind) for kind in ("u2", "i4", "f8")]


@pytest.mark.parametrize(("numbers", "kind"), WIDTHS)
def test_colours_of_8_and_16_bits(numbers, kind):
    """The eight bits that were meant, whether LAS widened them by 256 or by 257."""
    for found in colors_as(numbers.astype(kind)):
        assert found.dtype == np.uint8
        assert np.array_equal(found, EIGHT)


def test_whole_numbers_are_never_shares():
    assert Cloud(np.zeros((2, 3)), np.array([[0, 1, 0], [1, 1, 1]])).color.tolist() == [[0, 1, 0], [1, 1, 1]]
    assert Cloud(np.zeros((1, 3)), np.array([[0, 1, 0]])).color.dtype == np.uint8


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_colours_from_0_to_1(kind):
    for found in colors_as((EIGHT / 255).astype(kind)):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, EIGHT / 255, atol=1e-7)


@pytest.mark.parametrize("wrong", [-1, -0.1, 65_536, 1e9])
def test_colours_out_of_range(wrong):
    with pytest.raises(DamagedError, match="colours out of range: expected 0 to 1, 255 or 65535"):
        Cloud(np.zeros((2, 3)), np.array([[0, 0, 0], [1, 1, wrong]]))
    with pytest.raises(DamagedError, match="red does not fit uint8"):
        points.decode(as_ply(columns_of(np.zeros((1, 3)), red=np.array([300])), "", declared="uchar"), "ply")


SHADE = 0x804020


@pytest.mark.parametrize("alpha", [0, 0xFF])
@pytest.mark.parametrize("kind", ["u4", "i4", "f4"])
@pytest.mark.parametrize("way", ["ascii", "binary", "binary_compressed"])
def test_packed_colours(way, kind, alpha):
    """One number of 32 bits; where it is declared a float, texts hold that float (old PCL) or the number (new PCL)."""
    bits = np.full(64, alpha << 24 | SHADE, np.uint32)
    columns = columns_of(np.zeros((64, 3), np.float32), rgb=bits.view(f"<{kind}"))
    if kind == "f4" and alpha and way == "ascii":  # the float is NaN, so only the number can be written
        columns["rgb"] = bits.astype(np.float64)
    assert (points.decode(as_pcd(columns, way), "pcd").color == (0x80, 0x40, 0x20)).all()
