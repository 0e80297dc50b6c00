"""Poses, matches in space and in features, and the operations on clouds that pairs are made with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmssl.errors import DamagedError
from mmssl.modalities.points import Cloud
from mmssl.transforms import points
from mmssl.transforms.pairs import (
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
