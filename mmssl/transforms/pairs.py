"""Two clouds of one scene: poses that bring them into one frame, points of one that match points of the other."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmssl.errors import DamagedError, LackingError
from mmssl.modalities import points as clouds
from mmssl.modalities.points import Cloud
from mmssl.transforms.points import grid_index, mean

Array = NDArray[np.floating]
POSES = ("points_a.camera_to_world", "points_b.camera_to_world")


def rigid(pose: Any, *, tolerance: float = 0.01) -> Array:
    """Returns a pose (4, 4) as float64; DamagedError where it is anything but a rotation and a translation."""
    try:
        found = np.asarray(pose, dtype=np.float64)
    except (TypeError, ValueError):
        raise DamagedError("a pose that is no matrix", repr(pose)[:80]) from None
    if found.shape != (4, 4):
        raise DamagedError("a pose of a wrong shape", f"expected (4, 4), found {found.shape}")
    if not np.isfinite(found).all():
        raise DamagedError("a pose that is not finite")
    turn = found[:3, :3]
    upright = np.allclose(turn @ turn.T, np.eye(3), atol=tolerance) and np.linalg.det(turn) > 0
    if not upright or not np.allclose(found[3], (0, 0, 0, 1), atol=1e-6):
        raise DamagedError("a pose that is not rigid", f"determinant {np.linalg.det(turn):.3f}")
    return found


def move(cloud: Cloud, pose: Array) -> Cloud:
    """Takes coordinates and normals by a rigid pose (4, 4)."""
    turn, shift = pose[:3, :3], pose[:3, 3]
    normal = None if cloud.normal is None else cloud.normal @ turn.T
    return replace(cloud, xyz=cloud.xyz @ turn.T + shift, normal=normal)


def posed_pair(sample: Mapping[str, Any], poses: tuple[str, str] | None) -> list[tuple[Cloud, Array]]:
    """Returns the clouds `points` and `points_b` of a sample as scanned, each with its pose in the common frame.

    poses: where in `meta` the two camera-to-world matrices stand, dotted; None for clouds that share a frame.
    """
    pair = []
    for key, path in zip(("points", "points_b"), poses or ("", ""), strict=True):
        if sample.get(key) is None:
            raise LackingError("a pair with one cloud only", f"without {key}")
        pair.append((clouds.load(sample[key]), pose_at(sample.get("meta"), path) if path else np.eye(4)))
    return pair


def pose_at(meta: Any, path: str) -> Array:
    """Returns the rigid pose (4, 4) at a dotted path of a sample's meta."""
    return rigid(at_path(meta, path, "a scan without a pose"))


def at_path(meta: Any, path: str, lacking: str) -> Any:
    """Returns what stands at a dotted path of a sample's meta; LackingError, in these words, where nothing does."""
    for name in path.split("."):
        meta = meta.get(name) if isinstance(meta, Mapping) else None
    if meta is None:
        raise LackingError(lacking, f"meta has no {path}")
    return meta


def angle(a: Array, b: Array) -> float:
    """Returns the degrees of the turn between two poses or rotations (3 or 4, 3 or 4)."""
    turn = a[:3, :3].T @ b[:3, :3]
    return float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))


@dataclass(slots=True)
class Scan:
    """A thinned cloud as it is shown, the pose (4, 4) that takes it to the common frame, and where its eye is (3,).

    camera: the pose (4, 4) with which it was scanned.
    """

    cloud: Cloud
    pose: Array
    eye: Array
    camera: Array

    @property
    def place(self) -> Array:
        """Its points in the common frame (N, 3)."""
        return move(self.cloud, self.pose).xyz


def fixed_scans(
    sample: Mapping[str, Any],
    *,
    poses: tuple[str, str] | None,
    voxel: float,
    points: int,
    rotation: Literal["none", "vertical", "any"],
    cut: float = 1.0,
) -> tuple[Scan, Scan]:
    """Returns a sample's two scans for judging, each moved to its mean and thinned, always alike for its key.

    rotation: "any", "vertical" (about z of the common frame), or "none": as each was scanned.
    cut: share of either cloud's points that are left on one side of a random plane.
    """
    rng = np.random.default_rng(zlib.crc32(str(sample.get("__key__")).encode()))
    first, second = (_scan(*scan, rng, voxel, points, rotation, cut) for scan in posed_pair(sample, poses))
    return first, second


def _scan(
    cloud: Cloud, pose: Array, rng: np.random.Generator, voxel: float, points: int, rotation: str, cut: float
) -> Scan:
    from scipy.spatial.transform import Rotation

    if cut < 1:
        along = np.argsort(cloud.xyz @ rng.normal(size=3))
        cloud = cloud.pick(np.sort(along[: max(1, round(cut * len(cloud)))]))
    turn = {"none": np.eye(3), "any": Rotation.random(random_state=rng).as_matrix()}
    vertical = Rotation.from_euler("z", rng.uniform(0, 2 * np.pi)).as_matrix() @ pose[:3, :3]
    to_shown = np.eye(4)
    to_shown[:3, :3] = turn.get(rotation, vertical)
    to_shown[:3, 3] = -to_shown[:3, :3] @ mean(cloud)
    shown = move(cloud, to_shown)
    kept = grid_index(shown, voxel)
    if len(kept) > points:
        kept = np.sort(rng.choice(kept, points, replace=False))
    return Scan(shown.pick(kept), pose @ np.linalg.inv(to_shown), to_shown[:3, 3], pose)


def near_pairs(a: Array, b: Array, radius: float) -> NDArray[np.int64]:
    """Returns the index (M, 2) of every point of a (N, 3) and of b (N', 3) that lie within a radius, sorted."""
    from scipy.spatial import cKDTree

    trees = [cKDTree(xyz, balanced_tree=False, compact_nodes=False) for xyz in (a, b)]  # made faster, asked once
    found = trees[0].sparse_distance_matrix(trees[1], radius, output_type="ndarray")
    return np.stack(np.divmod(np.sort(found["i"] * len(b) + found["j"]), len(b)), axis=1)


def overlap(pairs: NDArray[np.int64], a: int, b: int) -> float:
    """Returns the share of points that have a match (M, 2), in the cloud (of a and of b points) where it is less."""
    return min(np.bincount(pairs[:, side], minlength=count).astype(bool).mean() for side, count in enumerate((a, b)))


def nearest_features(a: Tensor, b: Tensor, *, mutual: bool = False) -> Tensor:
    """Returns for each row of a (N, D) the nearest of b (N', D) as pairs (N, 2), or those that are so both ways."""
    there = torch.stack([torch.arange(len(a)), _nearest(a, b)], dim=1)
    return there[_nearest(b, a)[there[:, 1]] == there[:, 0]] if mutual else there


def _nearest(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([torch.cdist(rows, b).argmin(dim=1) for rows in a.split(1024)])


def right_pairs(pairs: Tensor, a: Array, b: Array, threshold: float) -> NDArray[np.bool_]:
    """Returns which pairs (M, 2) of points a (N, 3), b (N', 3) lie within metres of each other, in a common frame."""
    first, second = pairs.T.cpu().numpy()
    return np.linalg.norm(a[first] - b[second], axis=1) <= threshold
