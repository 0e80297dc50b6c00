"""Poses, matches in space and in features, and the operations on clouds that pairs are made with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.spatial.transform import Rotation

from mmssl.errors import DamagedError
from mmssl.modalities.points import Cloud
from mmssl.transforms import points
from mmssl.transforms.pairs import (
    POSES,
    fixed_scans,
    move,
    near_pairs,
    nearest_features,
    overlap,
    posed_pair,
    right_pairs,
    rigid,
)


def cloud(count: int = 200) -> Cloud:
    rng = np.random.default_rng(1)
    return Cloud(rng.uniform(-1, 1, (count, 3)), normal=rng.standard_normal((count, 3)))


def pose(shift: tuple[float, float, float] = (0.5, -2.0, 1.0)) -> np.ndarray:
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = points.random_rotation(axis="any"), shift
    return found


def test_moving_there_and_back() -> None:
    there = move(cloud(), pose())
    assert np.abs(there.xyz - cloud().xyz).max() > 0.5
    turn = pose()
    back = move(move(cloud(), turn), np.linalg.inv(turn))
    np.testing.assert_allclose(back.xyz, cloud().xyz, atol=1e-5)
    np.testing.assert_allclose(back.normal, cloud().normal, atol=1e-5)


def test_rigid_takes_what_rounding_leaves_and_nothing_else() -> None:
    found = rigid(pose().round(3).tolist())
    assert found.dtype == np.float64
    last = pose()
    last[3, 0] = 0.1
    for bad in (last, pose() * 1.1, np.zeros((4, 4)), [[1, 2], [3]], None):
        with pytest.raises(DamagedError):
            rigid(bad)


def test_near_pairs_and_overlap() -> None:
    a, b = cloud().xyz, cloud(300).xyz
    pairs = near_pairs(a, b, 0.3)
    every = np.argwhere(np.linalg.norm(a[:, None] - b[None], axis=2) <= 0.3)
    assert np.array_equal(pairs, every)
    assert pairs.dtype == np.int64
    share = overlap(np.array([[0, 0], [0, 1], [1, 1]]), 4, 2)
    assert share == 0.5
    assert overlap(near_pairs(a, b + 9, 0.3), 200, 300) == 0


def test_nearest_features() -> None:
    a, b = torch.randn(50, 4), torch.randn(40, 4)
    distance = torch.linalg.norm(a[:, None] - b[None], dim=2)
    assert nearest_features(a, b).tolist() == [[i, int(j)] for i, j in enumerate(distance.argmin(1))]
    back = distance.argmin(0)
    expected = [[i, int(j)] for i, j in enumerate(distance.argmin(1)) if back[j] == i]
    assert nearest_features(a, b, mutual=True).tolist() == expected
    assert 0 < len(expected) < 40


def test_right_pairs() -> None:
    a = np.array([[0, 0, 0], [1, 0, 0]])
    found = right_pairs(torch.tensor([[0, 0], [1, 0], [1, 1]]), a, a + 0.05, 0.1)
    assert found.tolist() == [True, False, True]


@pytest.mark.parametrize("rotation", ["none", "vertical", "any"])
def test_scans_for_judging_are_fixed_and_keep_their_place(rotation: str) -> None:
    local, pose_a, pose_b = cloud(), pose(), pose((0, 0, 0))
    meta = {"points_a": {"camera_to_world": pose_a.tolist()}, "points_b": {"camera_to_world": pose_b.tolist()}}
    sample = {"points": local, "points_b": local, "meta": meta, "__key__": "7"}
    options = {"poses": ("points_a.camera_to_world", "points_b.camera_to_world"), "voxel": 0.05, "points": 150}
    a, b = fixed_scans(sample, **options, rotation=rotation)  # type: ignore[arg-type]
    again, _ = fixed_scans(sample, **options, rotation=rotation)  # type: ignore[arg-type]
    np.random.rand()
    assert np.array_equal(a.cloud.xyz, again.cloud.xyz)
    assert len(a.cloud) == 150
    world = move(local, pose_a).xyz
    assert np.linalg.norm(world[:, None] - a.place[None], axis=2).min(0).max() < 1e-5, "points stay where they were"
    np.testing.assert_allclose(move(Cloud(a.eye[None]), a.pose).xyz[0], pose_a[:3, 3], atol=1e-5)
    level = a.pose[:3, :3] @ np.array([0, 0, 1])
    assert (abs(level[2] - 1) < 1e-6) == (rotation == "vertical")
    assert len(posed_pair(sample, options["poses"])) == 2  # type: ignore[arg-type]
    assert not np.allclose(a.pose[:3, :3], b.pose[:3, :3])
    assert np.array_equal(a.camera, pose_a) and np.array_equal(b.camera, pose_b), "however it is turned"


def test_one_point_of_each_voxel() -> None:
    kept = points.grid_index(Cloud(np.array([[0.1, 0, 0], [0.9, 0, 0], [-0.1, 0, 0], [1.1, 0, 0]])), 1.0)
    assert kept.tolist() == [0, 2, 3]


def test_crops_are_near_one_point() -> None:
    whole = cloud(1000)
    index = points.crop_index(whole, 0.1)
    assert len(index) == 100
    assert np.ptp(whole.xyz[index], axis=0).max() < 1.5
    assert len(points.crop_index(whole, 1.0)) == 1000
    assert len(points.crop_index(whole, 0.0)) == 1


def test_centred_and_mirrored() -> None:
    assert np.abs(points.centred(move(cloud(), pose())).xyz.mean(0)).max() < 1e-6
    flipped = points.mirror(cloud(), axis=1)
    for mine, whole in ((flipped.xyz, cloud().xyz), (flipped.normal, cloud().normal)):
        assert mine is not None
        assert whole is not None
        np.testing.assert_array_equal(mine, whole * np.array([1, -1, 1], np.float32))


def test_local_shape_is_that_of_the_neighbours_and_does_not_turn() -> None:
    xyz = cloud(2000).xyz
    xyz[:700, 2] = 0
    found = points.local_shape(xyz)
    for column, radius in zip((0, 3, 6), points.RADII, strict=True):
        near = xyz[np.linalg.norm(xyz - xyz[5], axis=1) <= radius]
        values = np.linalg.eigvalsh(np.cov(near.T, bias=True)).clip(min=0)
        np.testing.assert_allclose(found[5, column : column + 3], np.sqrt(values) / radius, atol=1e-3)
    np.testing.assert_allclose(found, points.local_shape(move(Cloud(xyz), pose()).xyz), atol=1e-3)
    assert points.local_shape(xyz[:1]).tolist() == [[0.0] * 9]
    columns = points.PointsPreprocess(features=("shape",))(xyz)
    np.testing.assert_array_equal(columns[:, 3:].numpy(), found)


@pytest.mark.parametrize(("scale", "fine"), [(1.004, True), (0.996, True), (1.006, False), (0.994, False)])
def test_how_far_from_rigid_a_pose_may_be(scale: float, fine: bool) -> None:
    """R R^T may be 0.01 off the identity: a scale of 1.005."""
    found = pose()
    found[:3, :3] *= scale
    if fine:
        assert np.array_equal(rigid(found), found)
    else:
        with pytest.raises(DamagedError, match=f"not rigid: determinant {scale**3:.3f}"):
            rigid(found)
    loose = pose()
    loose[:3, :3] *= 1.02
    assert np.array_equal(rigid(loose, tolerance=0.05), loose)


@pytest.mark.parametrize(
    ("place", "off", "fine"), [(0, 5e-7, True), (1, 1e-5, False), (3, 5e-6, True), (3, 1e-4, False)]
)
def test_the_last_row_of_a_pose(place: int, off: float, fine: bool) -> None:
    found = pose()
    found[3, place] += off
    if fine:
        assert np.array_equal(rigid(found), found)
    else:
        with pytest.raises(DamagedError, match="not rigid"):
            rigid(found)


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        ("north", "a pose that is no matrix", "'north'"),
        ({"a": 1}, "a pose that is no matrix", "{'a': 1}"),
        ("n" * 200, "a pose that is no matrix", "'" + "n" * 79 + "$"),
        (np.eye(3), "a pose of a wrong shape", r"expected \(4, 4\), found \(3, 3\)"),
        (np.full((4, 4), np.inf), "a pose that is not finite", "not finite$"),
        (np.diag([-1, 1, 1, 1]), "a pose that is not rigid", "determinant -1.000"),
    ],
)
def test_why_a_pose_is_refused(bad: Any, reason: str, detail: str) -> None:
    with pytest.raises(DamagedError, match=detail) as caught:
        rigid(bad)
    assert caught.value.reason == reason


def test_normals_move_with_the_points_but_have_no_place() -> None:
    turn = Rotation.from_euler("xyz", [0.5, 1.0, -2.0])
    there = np.eye(4)
    there[:3, :3], there[:3, 3] = turn.as_matrix(), (1, 2, 3)
    moved = move(cloud(), there)
    np.testing.assert_allclose(moved.xyz, np.add(turn.apply(cloud().xyz), [1, 2, 3]), atol=1e-5)
    np.testing.assert_allclose(moved.normal, turn.apply(cloud().normal), atol=1e-5)
    assert move(Cloud(cloud().xyz), there).normal is None


def posed(**changed: Any) -> dict[str, Any]:
    first, second = pose(), pose((4.0, 5.0, 6.0))
    meta = {"a": {"left": {"to_world": first.tolist()}}, "b": second.tolist()}
    return {"points": cloud(30), "points_b": cloud(40), "meta": meta, **changed}


def test_a_pair_is_found_with_its_poses() -> None:
    sample = posed()
    (a, pose_a), (b, pose_b) = posed_pair(sample, ("a.left.to_world", "b"))
    assert (len(a), len(b)) == (30, 40)
    assert pose_a.tolist() == sample["meta"]["a"]["left"]["to_world"]
    assert pose_b.tolist() == sample["meta"]["b"]
    for _, own in posed_pair({**sample, "meta": None}, None):
        assert np.array_equal(own, np.eye(4))
    for changed, path, message in (
        ({"points": None}, "b", "a pair with one cloud only: without points$"),
        ({"points_b": None}, "b", "a pair with one cloud only: without points_b"),
        ({"meta": None}, "b", "a scan without a pose: meta has no a.left.to_world"),
        ({}, "c", "a scan without a pose: meta has no c"),
        ({}, "a.right.to_world", "a scan without a pose: meta has no a.right.to_world"),
        ({}, "b.further", "a scan without a pose: meta has no b.further"),
        ({}, "a.left", "a pose that is no matrix|a pose of a wrong shape"),
    ):
        with pytest.raises(DamagedError, match=message):
            posed_pair({**sample, **changed}, ("a.left.to_world", path))
    assert POSES == ("points_a.camera_to_world", "points_b.camera_to_world")


def test_scans_for_judging_depend_on_the_key_alone() -> None:
    def turns(sample: dict[str, Any]) -> list[list[float]]:
        found = fixed_scans(sample, poses=("a.left.to_world", "b"), voxel=0.01, points=25, rotation="any")
        return [scan.cloud.xyz.tolist() for scan in found]

    first = {**posed(), "__key__": "1"}
    assert turns(first) == turns(first)
    assert turns(first) != turns({**first, "__key__": "2"})


def test_scans_are_thinned_by_voxels_first_and_then_to_a_number() -> None:
    sample = {"points": cloud(400), "points_b": cloud(10), "__key__": "k"}
    options: dict[str, Any] = {"poses": None, "rotation": "none"}
    (whole, few) = fixed_scans(sample, voxel=0.5, points=1000, **options)
    centred = cloud(400).xyz - cloud(400).xyz.mean(0)
    kept = points.grid_index(Cloud(centred), 0.5)
    np.testing.assert_allclose(whole.cloud.xyz, centred[kept], atol=1e-6)
    np.testing.assert_allclose(whole.cloud.normal, cloud(400).normal[kept], atol=1e-6)
    np.testing.assert_allclose(whole.place, cloud(400).xyz[kept], atol=1e-6)
    np.testing.assert_allclose(whole.eye, -cloud(400).xyz.mean(0), atol=1e-6)
    (some, same) = fixed_scans(sample, voxel=0.5, points=20, **options)
    rows = [int(np.flatnonzero((whole.cloud.xyz == one).all(1))[0]) for one in some.cloud.xyz]
    assert len(rows) == 20
    assert rows == sorted(set(rows))
    assert rows != list(range(20))
    assert np.array_equal(same.cloud.xyz, few.cloud.xyz)
    (exact, _) = fixed_scans(sample, voxel=0.5, points=len(kept), **options)
    assert np.array_equal(exact.cloud.xyz, whole.cloud.xyz)


def test_scans_are_cut_by_planes() -> None:
    """What is left of either scan, and what is not, lie on two sides of a plane; each is cut by one of its own."""
    sample = {"points": cloud(400), "points_b": cloud(400), "__key__": "k"}
    options: dict[str, Any] = {"poses": None, "rotation": "none", "voxel": 1e-4, "points": 1000}
    whole, sides = cloud(400).xyz, []
    for scan in fixed_scans(sample, cut=0.65, **options):
        place = scan.place
        kept = (np.abs(whole[:, None] - place[None]).max(axis=2) < 1e-5).any(axis=1)
        assert len(place) == kept.sum() == 260
        beyond = (
            np.where(kept, -1.0, 1.0)[:, None] * np.c_[whole, np.ones(len(whole))]
        )  # w.x + b, at least 1 where cut off
        assert linprog(np.zeros(4), A_ub=-beyond, b_ub=-np.ones(len(whole)), bounds=(None, None)).status == 0
        sides.append(kept)
    assert (sides[0] != sides[1]).any()
    assert np.array_equal(
        fixed_scans(sample, cut=1.0, **options)[0].cloud.xyz, fixed_scans(sample, **options)[0].cloud.xyz
    )


def test_what_the_vertical_of_a_scan_is() -> None:
    """About z of the common frame: height differences in it stay, whichever way the scan was held."""
    sample = {**posed(), "__key__": "3"}
    for rotation, kept in (("vertical", True), ("any", False), ("none", False)):
        scans = fixed_scans(sample, poses=("a.left.to_world", "b"), voxel=1e-4, points=99, rotation=rotation)  # type: ignore[arg-type]
        for scan in scans:
            height = scan.place[:, 2] - scan.place[:, 2].mean()
            assert np.allclose(scan.cloud.xyz[:, 2], height, atol=1e-5) == kept
            turn = scan.pose[:3, :3] @ scan.pose[:3, :3].T
            np.testing.assert_allclose(turn, np.eye(3), atol=1e-6)
    (a, b) = fixed_scans(sample, poses=("a.left.to_world", "b"), voxel=1e-4, points=99, rotation="vertical")
    assert not np.allclose(a.pose[:3, :3], b.pose[:3, :3]), "each by an angle of its own"
    for scan, key in zip(
        fixed_scans(sample, poses=None, voxel=1e-4, points=99, rotation="none"), ("points", "points_b"), strict=True
    ):
        own = sample[key].xyz
        np.testing.assert_allclose(scan.cloud.xyz, own - own.mean(0), atol=1e-5)


def test_pairs_at_the_radius_exactly_are_near() -> None:
    a, b = np.array([[0.0, 0, 0], [5, 0, 0]]), np.array([[0.0, 0, 3], [0.0, 0, 2], [0, 0, 2.1], [5, 1, 0]])
    assert near_pairs(a, b, 2.0).tolist() == [[0, 1], [1, 3]]
    assert near_pairs(a, b, 2.5).tolist() == [[0, 1], [0, 2], [1, 3]], "sorted"


def test_overlap_is_that_of_the_cloud_where_it_is_less() -> None:
    pairs = np.array([[0, 0], [1, 0], [2, 0], [2, 1]])
    assert overlap(pairs, 4, 10) == 0.2
    assert overlap(pairs, 30, 2) == 0.1
    assert overlap(pairs, 3, 2) == 1.0


def test_nearest_of_many_rows() -> None:
    """More than are compared at a time, in one dimension, where the nearest is plain to see."""
    a, b = torch.arange(2500.0)[:, None], torch.arange(2500.0).flip(0)[:, None] + 0.3
    assert nearest_features(a, b)[:, 1].equal(torch.arange(2500).flip(0))
    one_way = nearest_features(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[0.9], [4.0]]))
    assert one_way.tolist() == [[0, 0], [1, 0], [2, 1]]
    both = nearest_features(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[0.9], [4.0]]), mutual=True)
    assert both.tolist() == [[1, 0], [2, 1]]


def test_right_pairs_are_as_near_as_the_threshold() -> None:
    a, b = np.array([[0.0, 0, 0], [0, 0, 10]]), np.array([[0.0, 3, 4], [0, 6, 10]])
    pairs = torch.tensor([[0, 0], [1, 1], [1, 0]])
    assert right_pairs(pairs, a, b, 5.0).tolist() == [True, False, False]
    assert right_pairs(pairs, a, b, 6.0).tolist() == [True, True, False]
