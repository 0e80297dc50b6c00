"""Pairs of clouds: which points match, what is refused, and what the guards take away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmssl.errors import DamagedError, UserError
from mmssl.modalities.points import Cloud
from mmssl.transforms.pairs import move
from mmssl.transforms.points import PointsPreprocess, random_rotation
from mmssl.types import Sample, View
from mmssl.views import cloud_pair


def room(count: int = 1500) -> np.ndarray:
    """A floor and two walls, 2 m wide."""
    xyz = np.random.default_rng(0).uniform(0, 2, (count, 3))
    xyz[np.arange(count), np.arange(count) % 3] = 0
    return xyz.astype(np.float32)


def pose(shift: float = 0.0) -> np.ndarray:
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = random_rotation(axis="any"), shift
    return found


def scans(**changed: Any) -> Sample:
    """The room as two cameras have it, the second of them without its nearest third."""
    world, poses = room(), (pose(), pose(1.5))
    part = world[world.sum(1) > 1.5]
    a, b = (move(Cloud(xyz), np.linalg.inv(p)) for xyz, p in zip((world, part), poses, strict=True))
    meta = {k: {"camera_to_world": p.tolist()} for k, p in zip(("points_a", "points_b"), poses, strict=True)}
    return {"points": a, "points_b": b, "meta": meta, **changed}


def view(points: int | None = None, features: tuple[str, ...] = (), **options: Any) -> View:
    steps = {"voxels": {"size": 0.08}} | options.pop("steps", {})
    return cloud_pair.view({"points": PointsPreprocess(points, features)}, points=steps, **options)


UNTURNED = cloud_pair.GUARDS["independent rotations"]["points"]


def rigidly_apart(a: np.ndarray, b: np.ndarray) -> float:
    """Returns how far b (M, 3) is from the rigid motion of a (M, 3) that fits it best (Kabsch, 1976)."""
    a, b = a - a.mean(0), b - b.mean(0)
    u, _, v = np.linalg.svd(a.T @ b)
    turn = u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v
    return float(np.linalg.norm(a @ turn - b, axis=1).max())


def matched(shown: Sample) -> tuple[np.ndarray, np.ndarray]:
    pairs = shown["extra"]["matches"]
    pairs = pairs[pairs[:, 0] >= 0]
    return shown["points"][0][pairs[:, 0], :3].numpy(), shown["points"][1][pairs[:, 1], :3].numpy()


@pytest.mark.parametrize(
    "options", [{}, {"pair": "crops"}, {"steps": {"rotate": {"axis": "vertical"}}}, {"scale": (0.9, 1.1)}]
)
def test_matches_are_the_same_place(options: dict[str, Any]) -> None:
    made = view(**options)
    shown = made({key: value for key, value in scans().items() if key in made.reads})
    a, b = matched(shown)
    assert len(a) > 200
    assert rigidly_apart(a, b) < 1.5 * 0.08 * 1.5
    assert rigidly_apart(a, np.random.permutation(b)) > 0.5, "the test itself tells right from wrong"
    for cloud in shown["points"]:
        cells = np.floor(cloud.numpy() / 0.08).astype(int)
        assert len(np.unique(cells, axis=0)) == len(cells), "one point per voxel, after the rotation"


def test_every_pair_within_the_radius_is_a_match() -> None:
    shown = view(steps=UNTURNED, radius=1.0)(scans())
    a, b = (cloud.numpy() for cloud in shown["points"])
    near = np.linalg.norm(a[:, None] - b[None], axis=2) <= 0.08
    pairs = {tuple(pair) for pair in shown["extra"]["matches"].tolist() if pair[0] >= 0}
    assert pairs == set(zip(*(index.tolist() for index in near.nonzero()), strict=True))


def test_clouds_in_one_frame_need_no_poses() -> None:
    sample = {"points": Cloud(room()), "points_b": Cloud(room()[300:])}
    made = view(poses=None)
    assert made.reads == ("points", "points_b")
    assert rigidly_apart(*matched(made(sample))) < 0.2


def test_matches_are_padded_and_cut_at_random_and_points_are_limited() -> None:
    shown = view(matches=7)(scans())
    assert shown["extra"]["matches"].shape == (7, 2)
    assert (shown["extra"]["matches"] >= 0).all()
    assert (view(matches=100_000)(scans())["extra"]["matches"][-1] == -1).all()
    assert max(map(len, view(points=300)(scans())["points"])) == 300
    lacking = view(matches=5)({"meta": {}})
    assert lacking.keys() == {"extra"}
    assert (lacking["extra"]["matches"] == -1).all()


def test_matches_are_of_the_points_that_are_shown_beside_another_encoder_too() -> None:
    both = {"points": PointsPreprocess(300), "other": PointsPreprocess(200)}
    shown = cloud_pair.view(both, points={"voxels": {"size": 0.08}})(scans())
    assert [len(cloud) for key in both for cloud in shown[key]] == [300, 300, 200, 200]
    assert rigidly_apart(*matched(shown)) < 1.5 * 0.08 * 1.5


def test_the_guards_hide_place_height_and_colour() -> None:
    shown = view()(scans())
    means = torch.stack([cloud.mean(0) for cloud in shown["points"]])
    assert means.abs().max() < 0.25, "thinning after centring moves the mean a little"
    a, b = matched(shown)
    assert np.abs(a - b).mean() > 0.3
    off = view(steps=UNTURNED)(scans())
    assert np.abs(np.subtract(*matched(off))).max() <= 1.5 * 0.08
    color = np.full((1500, 3), 100, dtype=np.uint8)
    sample = scans()
    sample["points"] = sample["points_b"] = Cloud(sample["points"].xyz, color)
    sample["meta"]["points_b"] = sample["meta"]["points_a"]
    kept = view(features=("color",), steps={"feature_noise": {"sigma": 0.0}})(sample)["points"][0][:, 3:]
    torch.testing.assert_close(kept, torch.full_like(kept, 100 / 255))
    noisy = view(features=("color",))(sample)["points"][0][:, 3:]
    assert 0.005 < noisy.std() < 0.02
    assert (view(features=("color",), steps={"feature_drop": {"p": 1.0}})(sample)["points"][1][:, 3:] == 1).all()


SHEAR, MIRROR, WIDE = np.eye(4), np.diag([1, 1, -1, 1]), np.eye(3)
SHEAR[0, 1] = 0.5
LOST = np.eye(4)
LOST[0, 3] = np.nan
BAD = [
    (SHEAR, "a pose that is not rigid"),
    (MIRROR, "a pose that is not rigid"),
    (2 * np.eye(4), "a pose that is not rigid"),
    (WIDE, "a pose of a wrong shape"),
    (LOST, "a pose that is not finite"),
    ("north", "a pose that is no matrix"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_poses_that_cannot_be_used(bad: Any, reason: str) -> None:
    sample = scans()
    sample["meta"]["points_b"]["camera_to_world"] = bad.tolist() if isinstance(bad, np.ndarray) else bad
    with pytest.raises(DamagedError) as caught:
        view()(sample)
    assert caught.value.reason == reason


def test_pairs_that_cannot_be_used() -> None:
    far = scans()
    far["meta"]["points_b"]["camera_to_world"] = pose(9.0).tolist()
    unknown = view(poses=("points_a.pose", "points_b.pose"))
    for made, sample, reason in [
        (view(), far, "clouds that hardly overlap"),
        (view(pair="crops", crop=(0.2, 0.2), overlap=0.95, radius=0.1), scans(), "clouds that hardly overlap"),
        (view(min_points=2000), scans(), "a cloud with too few points"),
        (unknown, scans(), "a scan without a pose"),
        (view(), {**scans(), "meta": None}, "a scan without a pose"),
        (view(), {**scans(), "points_b": None}, "a pair with one cloud only"),
    ]:
        with pytest.raises(DamagedError) as caught:
            made(sample)
        assert caught.value.reason == reason
    with pytest.raises(DamagedError, match="without points: 1500 are not finite"):
        view()(scans(points=np.full_like(room(), np.inf)))
    with pytest.raises(UserError, match="points.voxels: size is 0.0"):
        view(steps={"voxels": {"size": 0.0}})
    with pytest.raises(UserError, match="crop is"):
        view(pair="crops", crop=(0.9, 0.5))
