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
    with pytest.raises(DamagedError, match="not finite"):
        points.decode(
            points.encode(cloud()).replace(cloud().xyz[:1].tobytes(), np.full(3, np.nan, "f4").tobytes()), "ply"
        )
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
