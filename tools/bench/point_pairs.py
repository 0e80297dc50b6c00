"""Measures pairs of clouds: matching their points, and whole views, beside open3d's core.nns, on the same clouds.

python tools/bench/point_pairs.py, on one core; needs open3d. Its whole view turns the clouds, thins them with
voxel_down_sample, which averages the points of a voxel, and lists the pairs; it draws, lays out and checks nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from timing import Row, compare, show

from mmssl.modalities.points import Cloud
from mmssl.transforms.pairs import near_pairs
from mmssl.transforms.points import PointsPreprocess, grid_index, random_rotation
from mmssl.views import cloud_pair

VOXEL, RADIUS = 0.025, 0.0375  # m


def scans() -> list[np.ndarray]:
    """Returns what two cameras see of a corner of a room, (N, 3) each, in one frame."""
    xyz = np.random.default_rng(0).uniform(0, 1.75, (26_000, 3)).astype(np.float32)
    xyz[np.arange(len(xyz)), np.arange(len(xyz)) % 3] = 0
    return [xyz[xyz.sum(1) < 2.6], xyz[xyz.sum(1) > 1.0]]


def rows() -> Iterator[Row]:
    """Yields the matching alone, and the whole view."""
    import open3d
    from open3d.core import Tensor
    from open3d.core.nns import NearestNeighborSearch

    torch.set_num_threads(1)

    def peer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        search = NearestNeighborSearch(Tensor(b))
        search.fixed_radius_index(RADIUS)
        found, _, splits = search.fixed_radius_search(Tensor(a), RADIUS)
        return np.stack([np.repeat(np.arange(len(a)), np.diff(splits.numpy())), found.numpy()], axis=1)

    def peer_view() -> np.ndarray:
        thinned = []
        for xyz in given:
            cloud = open3d.t.geometry.PointCloud(Tensor(xyz))
            turn, middle = Tensor(random_rotation(axis="any")), cloud.get_center()
            cloud = cloud.rotate(turn, middle).voxel_down_sample(VOXEL)
            thinned.append(cloud.rotate(turn.T().contiguous(), middle).point.positions.numpy())
        return peer(*thinned)

    given = scans()
    a, b = (xyz[grid_index(Cloud(xyz), VOXEL)] for xyz in given)
    assert len(near_pairs(a, b, RADIUS)) == len(peer(a, b))
    work = f"point pairs, {len(a):,} and {len(b):,} points"
    yield compare(work, lambda: near_pairs(a, b, RADIUS), lambda: peer(a, b), against="core.nns", bound_by="distances")
    view = cloud_pair.view({"points": PointsPreprocess(None)}, poses=None)
    sample = {"points": Cloud(given[0]), "points_b": Cloud(given[1])}
    yield compare(f"{work}, whole views", lambda: view(sample), peer_view, against="open3d", bound_by="distances")


if __name__ == "__main__":
    show(rows())
