"""Two clouds of one scene, each turned on its own, and which points of them are the same place."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import points as clouds
from mmssl.modalities.points import Cloud
from mmssl.transforms import points
from mmssl.transforms.image import chance, check_range
from mmssl.transforms.pairs import POSES, move, near_pairs, overlap, posed_pair
from mmssl.types import Preprocess, Sample, View

TRIES = 10  # pairs of crops drawn until two overlap


class CloudPair(View):
    """Shows two clouds of one scene, thinned to a point per voxel, with extra["matches"] (M, 2), -1 past their end.

    Each view is moved to its mean and turned, so that neither place nor height tells a point; one scale for both.
    Raises DamagedError for poses that are not rigid, too few points and too little overlap.
    Xie et al., ECCV 2020 (PointContrast).

    pair: "posed" scans `points` and `points_b`, or two random "crops" of `points`.
    poses: where in `meta` the scans' camera-to-world matrices stand, null where both are in one frame already.
    voxel: side of a voxel in metres.
    radius: how many voxels apart matching points may lie.
    matches: M; they are drawn at random where there are more, and in random order.
    overlap: the least share of points with a match.
    min_points: the fewest points of a thinned cloud.
    crop: range of the share of points of each of two crops.
    rotation: how each view is turned.
    scale: range of the factor of both views.
    jitter: deviation of the noise on coordinates, in metres.
    feature_noise: deviation of the noise on colours or normals, where the encoder reads them.
    drop_features: how often these are all 1.
    """

    guards: Mapping[str, Mapping[str, Any]] = {"independent rotations": {"rotation": "none"}}

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        pair: Literal["posed", "crops"] = "posed",
        poses: tuple[str, str] | None = POSES,
        voxel: float = 0.025,
        radius: float = 1.5,
        matches: int = 16384,
        overlap: float = 0.3,
        min_points: int = 100,
        crop: tuple[float, float] = (0.5, 0.8),
        rotation: Literal["none", "vertical", "any"] = "any",
        scale: tuple[float, float] = (1.0, 1.0),
        jitter: float = 0.0,
        feature_noise: float = 0.01,
        drop_features: float = 0.0,
    ) -> None:
        super().__init__(preprocess)
        if voxel <= 0:
            raise UserError(f"voxel is {voxel}; expected metres above 0")
        scans = ("points", "points_b", *(["meta"] if poses else []))
        self.reads = scans if pair == "posed" else ("points",)
        self.shows = {"points": 2}
        self.prepare: Any = self.preprocess["points"]
        self.poses, self.voxel, self.radius, self.matches = poses, voxel, radius, matches
        self.overlap, self.min_points, self.rotation = overlap, min_points, rotation
        self.crop = check_range("crop", crop, 0.01, 1.0) if pair == "crops" else None
        self.scale = check_range("scale", scale, 0.01, 100.0)
        self.jitter, self.feature_noise, self.drop_features = jitter, feature_noise, drop_features

    def check(self) -> None:
        if self.crop == (1, 1) and self.rotation == "none" and not self.jitter:
            raise UserError(
                "nothing sets the two views of points apart, they would be all alike; set crop, rotation or jitter"
            )

    def __call__(self, sample: Sample) -> Sample:
        if sample.get("points") is None:
            return {"extra": {"matches": torch.full((self.matches, 2), -1)}}
        a, b = self._crops(sample) if self.crop else [move(*scan) for scan in posed_pair(sample, self.poses)]
        scale = random.uniform(*self.scale)
        a, b = points.nearby(*(points.random_scale(cloud, scale=(scale, scale)) for cloud in (a, b)))
        (view_a, place_a), (view_b, place_b) = self._turned(a), self._turned(b)
        pairs = near_pairs(place_a, place_b, self.radius * self.voxel)
        share = overlap(pairs, len(place_a), len(place_b))
        if share < self.overlap:
            raise DamagedError("clouds that hardly overlap", f"{share:.0%}, expected {self.overlap:.0%}")
        order = torch.randperm(len(pairs))[: self.matches]
        padded = torch.full((self.matches, 2), -1)
        padded[: len(order)] = torch.from_numpy(pairs)[order]
        return {"points": [self._columns(view_a), self._columns(view_b)], "extra": {"matches": padded}}

    def _crops(self, sample: Sample) -> tuple[Cloud, Cloud]:
        """Draws two crops until the points that they share are enough."""
        cloud = clouds.load(sample["points"])
        assert self.crop
        for _ in range(TRIES):
            first, second = (points.crop_index(cloud, random.uniform(*self.crop)) for _ in range(2))
            shared = len(np.intersect1d(first, second, assume_unique=True))
            if shared >= self.overlap * max(len(first), len(second)):
                break
        return cloud.pick(first), cloud.pick(second)

    def _turned(self, cloud: Cloud) -> tuple[Cloud, np.ndarray]:
        """Returns the cloud turned about its mean and thinned, and where its points lie in the common frame (N, 3)."""
        shown = cloud
        if self.rotation != "none":
            shown = points.rotate(points.centred(cloud), points.random_rotation(axis=self.rotation))
        kept = points.grid_index(shown, self.voxel)
        if self.prepare.points is not None and len(kept) > self.prepare.points:
            kept = np.random.choice(kept, self.prepare.points, replace=False)
        if len(kept) < self.min_points:
            raise DamagedError("a cloud with too few points", f"{len(kept)}, expected {self.min_points}")
        return shown.pick(kept), cloud.xyz[kept]

    def _columns(self, cloud: Cloud) -> Tensor:
        """Lays a view out as (N, C) for the encoder, its coordinates and features disturbed."""
        columns: Tensor = self.prepare.columns(points.jitter(cloud, sigma=self.jitter) if self.jitter else cloud)
        features = columns[:, 3:]
        features += self.feature_noise * torch.randn_like(features)
        if chance(self.drop_features):
            features.fill_(1)
        return columns


view = CloudPair
