"""Scans: frames are back-projected where depth is valid, bad poses are skipped, pairs overlap, and time splits."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from mmssl.data.shards import Source
from mmssl.modalities import points
from mmssl.transforms.pairs import move
from mmssl.transforms.points import PointsPreprocess
from mmssl.views import cloud_pair

FRAMES = 30


@pytest.fixture(scope="module")
def scans(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("scans")


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A camera that slides along a wall 2 m before it; y is down."""
    out = tmp_path / "in" / "seq-01"
    out.mkdir(parents=True)
    (tmp_path / "in" / "camera-intrinsics.txt").write_text("60 0 32\n0 60 24\n0 0 1\n")
    for n in range(FRAMES):
        depth = np.full((48, 64), 2000, np.uint16)
        depth[:, :8], depth[:, 8:16] = 0, 65535
        pose = np.eye(4)
        pose[0, 3] = 0.03 * n
        if n == 4:
            pose[0, 0] = 3
        (out / f"frame-{n:06d}.depth.png").write_bytes(png(depth))
        (out / f"frame-{n:06d}.color.png").write_bytes(png(np.full((96, 128, 3), (200, 30, n), np.uint8)))
        text = "\n".join(" ".join(f"{x:e}" for x in row) for row in pose) if n != 6 else "nan inf\n"
        (out / f"frame-{n:06d}.pose.txt").write_text(text)
    (out / "frame-000008.pose.txt").unlink()
    (out / "frame-000010.depth.png").write_bytes(b"not an image")
    return tmp_path / "in"


ENDS = ["--stretches", "train=0.7", "test=0.3"]
ARGUMENTS = ["--up", "0", "-1", "0", "--gap", "4", "--pairs", "20", *ENDS]


def test_pairs(scans: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(folder, arcname=".")
    assert scans.main([str(tmp_path / "a"), "--source", str(folder), *ARGUMENTS]) == 0
    told = capsys.readouterr().out.splitlines()
    reasons = ["a pose that is not rigid", "a pose of a wrong shape", "a frame without a pose"]
    reasons.append("not an image that can be read as JPEG, PNG, WebP, BMP, TIFF or GIF")
    assert sorted(told) == sorted(f"scans: {reason}: 1 frames skipped" for reason in reasons)
    assert scans.main([str(tmp_path / "b"), "--source", str(tmp_path / "in.tar"), *ARGUMENTS]) == 0
    assert (tmp_path / "a/test/00000.tar").read_bytes() == (tmp_path / "b/test/00000.tar").read_bytes()
    frames: dict[str, set[int]] = {}
    for split in ("train", "test"):
        source = Source(shards=str(tmp_path / "a" / split), fields={"points": "points_a.ply"})
        found = list(source.samples({"points", "points_b", "meta"}))
        frames[split] = {int(s["meta"][role]["frame"][-6:]) for s in found for role in ("points_a", "points_b")}
        for sample in found:
            world = move(sample["points"], np.array(sample["meta"]["points_a"]["camera_to_world"])).xyz
            assert sorted(np.ptp(world, axis=0) > 1) == [False, True, True], "a wall"
            assert np.ptp(world[:, 2]) > 1, "z is up"
            assert 0.3 <= sample["meta"]["overlap"] <= 1
            apart = abs(np.diff([int(sample["meta"][role]["frame"][-6:]) for role in ("points_a", "points_b")])[0])
            assert sample["meta"]["distance"] == pytest.approx(0.03 * apart, abs=1e-3)
            assert sample["meta"]["angle"] == 0
            left = sample["points"].xyz[:, 0].min()
            assert left > (15 - 32) / 60 * 2, "where nothing was measured, there is no point"
        view = cloud_pair.view({"points": PointsPreprocess()}, points={"voxels": {"size": 0.05}}, min_points=50)
        assert (view(found[0])["extra"]["matches"] >= 0).any()
    assert len(frames["train"]) > 3
    assert max(frames["train"]) + 4 < min(frames["test"])


def test_stretches_share_what_the_gaps_leave(scans: ModuleType) -> None:
    """Of 24 frames two gaps of 2 leave 20: 5, 10 and 5."""
    names = [str(n) for n in range(24)]
    shares = scans.stretches_of(["test=0.25", "train=0.5", "test=0.25"])
    assert shares == [("test", 0.25), ("train", 0.5), ("test", 0.25)]
    found = scans.cut(names, shares, gap=2)
    assert found == {"test": [names[:5], names[19:]], "train": [names[7:17]]}
    assert scans.cut(names[:3], shares, gap=2) == {"test": [[], []], "train": [[]]}, "a path shorter than its gaps"
    assert scans.stretches_of(scans.STRETCHES)[2] == ("train", 0.68)


@pytest.mark.parametrize(("overlap", "angle"), [((0.3, 0.6), (0, 180)), ((0, 1), (10, 25)), ((0.5, 1), (5, 90))])
def test_pairs_within_ranges(
    scans: ModuleType, overlap: tuple[float, float], angle: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cameras at 0, 4, ... 28 degrees about the vertical; the overlap falls by an eighth from each to the next."""
    row = points.Cloud(np.stack([np.arange(10.0), np.zeros(10), np.ones(10)], axis=1))
    made = []
    for n in range(8):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler("z", 4 * n, degrees=True).as_matrix()
        made.append(scans.Scan(str(n), row, pose))
    monkeypatch.setattr(scans, "overlap", lambda pairs, a, b: len(pairs) / 10)
    monkeypatch.setattr(scans, "near_pairs", lambda a, b, radius: range(int(10 * shares[tuple(a[9]), tuple(b[9])])))
    shares = {
        (tuple(a.place[9]), tuple(b.place[9])): 1 - (j - i) / 8 for i, a in enumerate(made) for j, b in enumerate(made)
    }
    options = scans.parser().parse_args(["out", "--source", "x", "--pairs", "100"])
    options.overlap, options.angle = overlap, angle
    found = {(int(p.a.name), int(p.b.name)): p for p in scans.overlapping(made, "s", options)}
    expected = {
        (i, j)
        for i in range(8)
        for j in range(i + 1, 8)
        if overlap[0] <= int(10 * (1 - (j - i) / 8)) / 10 <= overlap[1] and angle[0] <= 4 * (j - i) <= angle[1]
    }
    assert found.keys() == expected and expected
    for (i, j), pair in found.items():
        assert pair.degrees == pytest.approx(4 * (j - i), abs=1e-6)
    options.pairs = 2
    assert len(scans.overlapping(made, "s", options)) == 2


def test_colour(scans: ModuleType, folder: Path, tmp_path: Path) -> None:
    assert scans.main([str(tmp_path / "a"), "--source", str(folder), "--color", *ARGUMENTS]) == 0
    source = Source(shards=str(tmp_path / "a" / "test"), fields={"points": "points_a.ply"})
    sample = next(source.samples({"points", "meta"}))
    number = int(sample["meta"]["points_a"]["frame"][-6:])
    assert (sample["points"].color == (200, 30, number)).all()


def test_normals(scans: ModuleType, folder: Path, tmp_path: Path) -> None:
    assert scans.main([str(tmp_path / "a"), "--source", str(folder), "--normals", *ARGUMENTS]) == 0
    source = Source(shards=str(tmp_path / "a" / "test"), fields={"points": "points_a.ply"})
    normal = next(source.samples({"points"}))["points"].normal
    np.testing.assert_allclose(normal, np.tile([0.0, 0, -1], (len(normal), 1)), atol=1e-3)


def test_normals_of_a_tilted_plane(scans: ModuleType) -> None:
    x, y = (part.ravel() for part in np.meshgrid(np.arange(-9, 9) / 40, np.arange(-9, 9) / 40))
    found = scans.normals(np.stack([x, y, 2 + x / 2], axis=1), radius=0.1)
    np.testing.assert_allclose(found, np.tile([0.2**0.5, 0, -(0.8**0.5)], (len(x), 1)), atol=1e-6)
    lonely = scans.normals(np.array([[0.0, 0, 1], [5, 5, 5]]), radius=0.1)
    np.testing.assert_allclose(np.linalg.norm(lonely, axis=1), 1)


def test_wrong_sources(scans: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    cases = [
        (["--source", str(tmp_path / "empty")], "no frame-*.depth.png"),
        (["--source", str(tmp_path / "none.tar")], "neither a tar nor a folder"),
        (["--source", str(folder), "--up", "0", "0", "0"], "is no direction"),
        (["--source", str(folder), "--overlap", "1.1", "2"], "no two train frames overlap by 110% to 200%"),
        (["--source", str(folder), "--angle", "1", "5"], "at 1 to 5 degrees"),
        (["--source", str(folder), "--stretches", "train=1", "valid=0"], "valid=0: expected train, validation or test"),
        (["--source", str(folder), "--stretches", "train=x"], "train=x: expected"),
        (["--source", str(folder), "--stretches", "train=0.5", "test=0.3"], "add up to 0.8; expected 1"),
    ]
    for arguments, message in cases:
        assert scans.main([str(tmp_path / "out"), *arguments]) == 2
        assert message in capsys.readouterr().err
    (folder / "camera-intrinsics.txt").unlink()
    assert scans.main([str(tmp_path / "out"), "--source", str(folder)]) == 2
    assert "give --intrinsics" in capsys.readouterr().err
    given = ["--intrinsics", "60", "60", "32", "24"]
    assert scans.main([str(tmp_path / "out"), "--source", str(folder), *given, *ARGUMENTS]) == 0
