"""Clouds far from the origin: what is computed of them is what numpy computes in float64."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmssl.data.loader import Loader
from mmssl.data.shards import Source
from mmssl.methods import depthcontrast
from mmssl.modalities.points import Cloud
from mmssl.transforms import points
from mmssl.transforms.pairs import fixed_scans, move
from mmssl.transforms.points import PointsPreprocess
from mmssl.views import cloud_pair
from mmssl.views.single import view as single

MM = 1e-3
UTM = np.array([448_262.0, 5_411_932.0, 312.0])


def local(count: int = 1500) -> np.ndarray:
    """A floor and two walls, 2 m wide."""
    xyz = np.random.default_rng(0).uniform(0, 2, (count, 3))
    xyz[np.arange(count), np.arange(count) % 3] = 0
    return xyz


def far(xyz: np.ndarray) -> Cloud:
    return Cloud(xyz + UTM)


def turned(xyz: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return xyz @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T


def shape_of(xyz: np.ndarray) -> np.ndarray:
    """Returns the distances of every 50th point to all others: what no motion changes."""
    return np.linalg.norm(xyz[::50, None].astype(float) - xyz[None].astype(float), axis=2)


@pytest.mark.parametrize("origin", [UTM, np.zeros(3), np.array([10.0, -3.0, 1.5])])
def test_centring(origin: np.ndarray) -> None:
    """A float32 mean of 100,000 points in UTM misses by kilometres."""
    xyz = np.random.default_rng(0).normal(size=(100_000, 3)) + origin
    expected = xyz - xyz.mean(axis=0)
    for found in (points.centred(Cloud(xyz)).xyz, PointsPreprocess(None, centre=True)(xyz).numpy()):
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-5
    np.testing.assert_allclose(points.mean(Cloud(xyz)), xyz.mean(axis=0), rtol=0, atol=1e-6)


def test_what_an_encoder_is_shown() -> None:
    """Along the axes that are far the median becomes 0; height stays as it was measured."""
    shown = PointsPreprocess(None)(far(local())).numpy()
    world = local() + UTM
    expected = world - [*np.median(world, axis=0)[:2], 0]
    assert shown.dtype == np.float32
    assert np.abs(shown - expected).max() < MM / 10
    near = PointsPreprocess(None)(local())
    assert torch.equal(near, torch.from_numpy(local().astype(np.float32))), "near clouds stay where they are"
    wild = local()
    wild[0] = 1e37
    assert np.ptp(PointsPreprocess(None)(wild)[1:].numpy() - local()[1:], axis=0).max() < MM, "one wild point"
    places = UTM, UTM + np.array([3, 0, 0]), UTM * (1, 0, 0)
    moved = points.nearby(*(Cloud(local() + place) for place in places))
    shift = [cloud.xyz - (local() + place) for cloud, place in zip(moved, places, strict=True)]
    assert np.ptp(np.concatenate(shift), axis=0).max() < MM, "several clouds are moved alike"
    assert [cloud.xyz.dtype for cloud in moved] == [np.float32, np.float32, np.float64]


def test_features_of_shape_do_not_depend_on_the_place() -> None:
    prepare = PointsPreprocess(None, features=("shape",))
    np.testing.assert_allclose(prepare(far(local()))[:, 3:], prepare(local())[:, 3:], atol=1e-4)


def test_operations() -> None:
    world = local() + UTM
    turn = points.random_rotation(axis="any")
    for found, expected in (
        (points.rotate(Cloud(world), turn), world @ turn.astype(float).T),
        (points.mirror(Cloud(world), axis=0), world * [-1, 1, 1]),
        (points.scaled(Cloud(world), 2), world * 2),
    ):
        assert np.abs(found.xyz - expected).max() < MM / 10
    assert 0.005 < (points.jitter(Cloud(world), sigma=0.01).xyz - world).std() < 0.02
    cells = np.unique(np.floor(world / 0.05), axis=0, return_index=True)[1]
    assert np.array_equal(points.grid_index(Cloud(world), 0.05), np.sort(cells))
    nearest = points.crop_index(Cloud(world), 0.1)
    assert np.ptp(world[nearest], axis=0).max() < 1.5


def test_poses_that_lead_far_and_back() -> None:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = points.random_rotation(axis="any").astype(float), UTM
    there = move(Cloud(local()), pose)
    assert np.abs(there.xyz - (local().astype(np.float32) @ pose[:3, :3].T + UTM)).max() < 1e-6
    assert np.abs(move(there, np.linalg.inv(pose)).xyz - local()).max() < 1e-6


@pytest.mark.parametrize("rotation", ["none", "vertical", "any"])
@pytest.mark.parametrize("view", ["single", "two crops"])
def test_views_keep_the_shape(view: str, rotation: str) -> None:
    turns: dict[str, Any] = {"rotate": None if rotation == "none" else {"axis": rotation}}
    whole = {"crop": None, "hole": None, "scale": None}
    template, steps = (single, turns) if view == "single" else (depthcontrast.method.view, whole | turns)
    made = template({"points": PointsPreprocess(None)}, points=steps)
    shown = made({"points": far(local())})["points"][0].numpy()
    np.testing.assert_allclose(shape_of(shown), shape_of(local()), atol=MM)


def pose_of(angle: float, shift: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3] = np.concatenate([turned(np.eye(3), angle).T, shift[:, None]], axis=1)
    return pose


def scans(kind: str) -> dict[str, object]:
    """The room as two scanners have it, the second without a corner: each in its own frame, or both in UTM."""
    world, part = local(), local()[local().sum(axis=1) > 1]
    if kind == "far scans":
        return {"points": far(world), "points_b": far(part)}
    poses = [pose_of(angle, UTM + shift) for angle, shift in ((0.3, 0.0), (2.0, 1.0))]
    own = [
        turned(xyz - pose[:3, 3] + UTM, -angle)
        for xyz, pose, angle in zip((world, part), poses, (0.3, 2.0), strict=True)
    ]
    meta = {f"points_{name}": {"camera_to_world": pose.tolist()} for name, pose in zip("ab", poses, strict=True)}
    return {"points": own[0], "points_b": own[1], "meta": meta}


@pytest.mark.parametrize("kind", ["far scans", "far poses"])
@pytest.mark.parametrize("rotation", ["none", "any"])
def test_pairs_meet(kind: str, rotation: str) -> None:
    """Points that match are the same ones of the room, and no match is lost."""
    options = {"poses": None} if kind == "far scans" else {}
    steps = {"voxels": {"size": MM / 100}} | ({"centre": None, "rotate": None} if rotation == "none" else {})
    made = cloud_pair.view({"points": PointsPreprocess(None)}, points=steps, radius=10.0, overlap=0.1, **options)
    shown = made(scans(kind))
    matches = shown["extra"]["matches"].numpy()
    matches = matches[matches[:, 0] >= 0]
    world, part = local(), local()[local().sum(axis=1) > 1]
    near = np.argwhere(np.linalg.norm(world[:, None] - part[None], axis=2) <= MM / 10)
    assert len(near) == len(part)
    assert sorted(map(tuple, matches.tolist())) == sorted(map(tuple, near.tolist()))
    a, b = (view.numpy() for view in shown["points"])
    np.testing.assert_allclose(shape_of(a), shape_of(world), atol=MM)
    np.testing.assert_allclose(shape_of(b), shape_of(part), atol=MM)
    if rotation == "none":
        assert np.abs(a[matches[:, 0]] - b[matches[:, 1]]).max() < MM, "both views are in one frame"


@pytest.mark.parametrize("kind", ["far scans", "far poses"])
@pytest.mark.parametrize("rotation", ["none", "any"])
def test_scans_for_judging_know_their_place(kind: str, rotation: str) -> None:
    poses = None if kind == "far scans" else ("points_a.camera_to_world", "points_b.camera_to_world")
    found = fixed_scans(scans(kind), poses=poses, voxel=1e-4, points=5000, rotation=rotation)  # type: ignore[arg-type]
    for scan, expected in zip(found, (local(), local()[local().sum(axis=1) > 1]), strict=True):
        assert np.abs(scan.place - UTM - expected).max() < MM
        assert np.abs(scan.cloud.xyz.mean(axis=0)).max() < MM
        np.testing.assert_allclose(shape_of(scan.cloud.xyz), shape_of(expected), atol=MM)


def test_dropped_points_are_noted() -> None:
    xyz = local()
    xyz[:7] = np.nan
    prepare = PointsPreprocess(100)
    assert len(prepare(xyz)) == 100
    assert len(prepare(local())) == 100
    assert prepare.take_notes() == {"points that are not finite": 7}
    assert not prepare.take_notes()
    prepare.points = None
    view = cloud_pair.view({"points": prepare}, points={"voxels": {"size": 0.01}}, overlap=0.1, poses=None)
    view({"points": xyz, "points_b": local()})
    assert prepare.take_notes() == {"points that are not finite": 7}
    assert PointsPreprocess(**prepare.config()) == prepare


def test_a_run_reports_dropped_points(tmp_path: Path) -> None:
    xyz = local(20)
    xyz[:3, 2] = np.nan
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in range(4):
            stream = io.BytesIO()
            np.save(stream, xyz)
            info = tarfile.TarInfo(f"{number}.npy")
            info.size = len(stream.getvalue())
            tar.addfile(info, io.BytesIO(stream.getvalue()))
    view = single({"points": PointsPreprocess(None)})
    loader = Loader(Source(shards=str(tmp_path / "0.tar")), view, batch=2, epoch_samples=4, workers=0)
    assert sum(len(batch.views["points"][0].values) for batch in loader.epoch(0)) == 4 * 17
    assert loader.report() == {"drawn": 4, "damaged": {}, "notes": {"points that are not finite": 12}}
