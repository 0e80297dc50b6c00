"""Point features that nothing has learnt, and poses: by hand, and what open3d is asked for."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mmssl.errors import UserError
from mmssl.evals.parts import descriptors
from mmssl.evals.parts.descriptors import coordinates, fpfh, pose_errors, ransac
from mmssl.modalities.points import Cloud
from mmssl.transforms.local_shape import local_surface
from mmssl.transforms.pairs import Scan

XYZ = np.array([[3.0, 4.0, 12.0], [0.0, -2.0, -1.0]])


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [("none", XYZ), ("any", [[13.0], [5**0.5]]), ("vertical", [[12.0, 5.0], [-1.0, 2.0]])],
)
def test_places_by_hand(rotation: str, expected: Any) -> None:
    found = coordinates(XYZ, rotation=rotation)
    torch.testing.assert_close(found, torch.tensor(np.array(expected), dtype=torch.float32))


@pytest.mark.parametrize("degrees", [0.0, 10.0, 90.0, 179.0])
def test_pose_errors_are_the_angle_and_the_distance(degrees: float) -> None:
    true, found = np.eye(4), np.eye(4)
    true[:3, :3] = Rotation.from_euler("xyz", [20, 50, -70], degrees=True).as_matrix()
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix()
    found[:3, :3] = true[:3, :3] @ turn
    true[:3, 3], found[:3, 3] = (1, 2, 3), (1, 5, 7)
    assert pose_errors(found, true) == pytest.approx((degrees, 5.0), abs=1e-4)
    assert pose_errors(true, found) == pytest.approx((degrees, 5.0), abs=1e-4)


def test_rounding_does_not_make_an_angle_nan() -> None:
    over = np.eye(4) * 1.0000001
    assert pose_errors(over, np.eye(4))[0] == 0.0
    assert pose_errors(np.eye(4) * -1.1, np.eye(4))[0] == 180.0


def searched(o3d: Any, radius: float) -> Any:
    return o3d.geometry.KDTreeSearchParamRadius(radius)


def test_fpfh_is_open3ds() -> None:
    o3d: Any = descriptors.open3d()
    xy = np.random.default_rng(0).uniform(0, 1, (400, 2))
    xyz, eye = np.concatenate([xy, 0.2 * np.sin(5 * xy[:, :1])], axis=1), np.array([0.2, 0.5, 3.0])
    made = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(xyz))
    made.estimate_normals(searched(o3d, 0.16))
    normals, points = np.asarray(made.normals), np.asarray(made.points)
    away = ((eye - points) * normals).sum(1) < 0
    made.normals = o3d.utility.Vector3dVector(np.where(away[:, None], -normals, normals))
    expected = o3d.pipelines.registration.compute_fpfh_feature(made, searched(o3d, 0.45)).data.T
    found = fpfh(Cloud(xyz), eye=eye, radius=0.45, normals=0.16)
    assert found.dtype == torch.float32 and found.shape == (400, 33)
    assert np.isclose(found, expected, rtol=1e-4, atol=1e-3).mean() > 0.97, "angles at a bin's edge fall either way"
    for wrong in ({"radius": 0.4, "normals": 0.16}, {"radius": 0.45, "normals": 0.12}):
        assert np.isclose(fpfh(Cloud(xyz), eye=eye, **wrong), expected, rtol=1e-4, atol=1e-3).mean() < 0.9


def test_fpfh_takes_the_clouds_own_normals() -> None:
    o3d: Any = descriptors.open3d()
    rng = np.random.default_rng(1)
    xyz, normal = rng.uniform(0, 1, (200, 3)), rng.normal(size=(200, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    made = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(xyz))
    made.normals = o3d.utility.Vector3dVector(normal)
    expected = o3d.pipelines.registration.compute_fpfh_feature(made, searched(o3d, 0.3)).data.T
    found = fpfh(Cloud(xyz, normal=normal), eye=np.zeros(3), radius=0.3, normals=0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)
    with pytest.raises(UserError, match="a cloud has no normals"):
        fpfh(Cloud(xyz), eye=np.zeros(3), radius=0.3, normals=0)


def test_surface_is_that_of_the_clouds_normals() -> None:
    rng = np.random.default_rng(2)
    cloud = Cloud(rng.uniform(0, 1, (50, 3)), normal=rng.normal(size=(50, 3)))
    found = descriptors.surface(Scan(cloud, np.eye(4), np.zeros(3), np.eye(4)))
    assert np.array_equal(found, local_surface(cloud.xyz, cloud.normal))


def test_ransac_asks_open3d_as_its_tutorial_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # distance 1.5 voxels, edge lengths alike to 0.9, three pairs a draw, confidence 0.999 (open3d's tutorial).
    o3d = MagicMock()
    registration = o3d.pipelines.registration
    answer = SimpleNamespace(transformation=np.eye(4) * 2)
    registration.registration_ransac_based_on_correspondence.return_value = answer
    monkeypatch.setattr(descriptors, "open3d", lambda: o3d)
    monkeypatch.setattr(descriptors, "_cloud", lambda module, xyz: xyz)
    a, b, pairs = np.zeros((4, 3)), np.ones((5, 3)), torch.tensor([[0, 4], [3, 1], [2, 2]])
    assert (ransac(a, b, pairs, voxel=0.1) == answer.transformation).all()
    called = registration.registration_ransac_based_on_correspondence.call_args
    assert called.args[0] is a and called.args[1] is b and called.args[3] == pytest.approx(0.15)
    (given,) = o3d.utility.Vector2iVector.call_args.args
    assert given.tolist() == pairs.tolist() and given.dtype == np.int32
    registration.CorrespondenceCheckerBasedOnEdgeLength.assert_called_once_with(0.9)
    registration.RANSACConvergenceCriteria.assert_called_once_with(50_000, 0.999)
    assert called.kwargs["ransac_n"] == 3
    assert called.kwargs["checkers"] == [registration.CorrespondenceCheckerBasedOnEdgeLength.return_value]
    assert called.kwargs["criteria"] is registration.RANSACConvergenceCriteria.return_value
    o3d.utility.random.seed.assert_called_once_with(0)


def test_open3d_that_is_broken_is_told_how_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    assert descriptors._cloud(descriptors.open3d(), XYZ.astype(np.float32)).has_points()
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(UserError, match=r"open3d .*pip install 'mmssl\[points\]'.*set fpfh and ransac to false"):
        descriptors.open3d()
