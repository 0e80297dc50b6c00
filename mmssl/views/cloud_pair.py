"""Two clouds of one scene, each turned on its own, and which points of them are the same place."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import points as clouds
from mmssl.modalities.points import Cloud
from mmssl.transforms import points
from mmssl.transforms.base import check_range
from mmssl.transforms.pairs import POSES, move, near_pairs, overlap, posed_pair
from mmssl.transforms.point_steps import (
    Centre,
    FeatureDrop,
    FeatureNoise,
    Jitter,
    Placed,
    Rotate,
    Voxels,
    thinned,
    together,
)
from mmssl.types import Preprocess, Sample
from mmssl.views.checks import Steps
from mmssl.views.composed import Composed
from mmssl.views.template import Views

TRIES = 10  # pairs of crops drawn until two overlap


class CloudPair(Composed):
    """Shows two clouds of one scene, thinned to a point per voxel, with extra["matches"] (M, 2), -1 past their end.

    A view's place is in the scans' common frame; a field of the second scan is called as the first's with _b behind.
    Raises DamagedError for poses that are not rigid, too few points and too little overlap.
    Xie et al., ECCV 2020 (PointContrast).

    pair: "posed" scans `points` and `points_b`, or two random "crops" of `points`.
    poses: where in `meta` the scans' camera-to-world matrices stand, null where both are in one frame already.
    radius: how many voxels apart matching points may lie.
    matches: M; they are drawn at random where there are more, and in random order.
    overlap: the least share of points with a match.
    min_points: the fewest points of a thinned cloud.
    crop: range of the share of points of each of two crops.
    scale: range of the factor of both views.
    """

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        template: Views,
        *,
        pair: Literal["posed", "crops"] = "posed",
        poses: tuple[str, str] | None = POSES,
        radius: float = 1.5,
        matches: int = 16384,
        overlap: float = 0.3,
        min_points: int = 100,
        crop: tuple[float, float] = (0.5, 0.8),
        scale: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__(preprocess, template)
        sizes = [step.size for step in self.steps["points"][0] if isinstance(step, Voxels)]
        if not sizes:
            raise UserError("radius is in voxels, but the view of points has no step voxels; give it one")
        self.poses, self.distance, self.matches = poses, radius * sizes[-1], matches
        self.overlap, self.min_points = overlap, min_points
        self.crop = check_range("crop", crop, 0.01, 1.0) if pair == "crops" else None
        self.scale = check_range("scale", scale, 0.01, 100.0)
        if pair == "posed":
            second = [f"{field}_b" for field in self.reads]
            self.reads = (*self.reads, *second, *(["meta"] if poses else []))

    def check(self) -> None:
        if self.crop == (1, 1):
            super().check()

    def __call__(self, sample: Sample) -> Sample:
        if sample.get("points") is None:
            return {"extra": {"matches": torch.full((self.matches, 2), -1)}}
        scans, starts = self._crops(sample) if self.crop else self._scans(sample)
        scale = random.uniform(*self.scale)
        starts = together(*(start.moved(points.scaled(start.cloud, scale), np.eye(3) * scale) for start in starts))
        shown: Sample = {"places": {}, "fields": {}}
        common = []
        for scan, start, steps in zip(scans, starts, self.steps["points"], strict=True):
            view, xyz = self._view(start, steps)
            self.add_cloud("points", view, steps, scan, shown)
            common.append(xyz)
        return shown | {"extra": {"matches": self._matches(*common)}}

    def _scans(self, sample: Sample) -> tuple[list[Sample], list[Placed]]:
        """Returns both scans in the common frame, and as samples of their own."""
        starts = [Placed.whole(move(cloud, pose)) for cloud, pose in posed_pair(sample, self.poses)]
        own = [{name: sample.get(f"{name}{end}") for name in self.aligned} for end in ("", "_b")]
        return [{**each, "points": start.cloud} for each, start in zip(own, starts, strict=True)], starts

    def _crops(self, sample: Sample) -> tuple[list[Sample], list[Placed]]:
        """Draws two crops until the points that they share are enough."""
        cloud: Cloud = clouds.load(sample["points"])
        assert self.crop
        for _ in range(TRIES):
            first, second = (points.crop_index(cloud, random.uniform(*self.crop)) for _ in range(2))
            shared = len(np.intersect1d(first, second, assume_unique=True))
            if shared >= self.overlap * max(len(first), len(second)):
                break
        whole = Placed.whole(cloud)
        return [{**sample, "points": cloud}] * 2, [whole.pick(first), whole.pick(second)]

    def _view(self, start: Placed, steps: Steps) -> tuple[Placed, np.ndarray]:
        """Returns what the steps make of a cloud, and where its points lay before (N, 3)."""
        view = self.stepped("points", replace(start, index=np.arange(len(start.cloud))), steps)
        view = thinned(view, self.prepare["points"].points)  # also where further encoders read the clouds
        if len(view.cloud) < self.min_points:
            raise DamagedError("a cloud with too few points", f"{len(view.cloud)}, expected {self.min_points}")
        return replace(view, index=start.index[view.index]), start.cloud.xyz[view.index]

    def _matches(self, a: np.ndarray, b: np.ndarray) -> torch.Tensor:
        """Returns pairs of near points of two clouds in one frame, in random order, padded or cut to M."""
        pairs = near_pairs(a, b, self.distance)
        share = overlap(pairs, len(a), len(b))
        if share < self.overlap:
            raise DamagedError("clouds that hardly overlap", f"{share:.0%}, expected {self.overlap:.0%}")
        order = torch.randperm(len(pairs))[: self.matches]
        padded = torch.full((self.matches, 2), -1)
        padded[: len(order)] = torch.from_numpy(pairs)[order]
        return padded


# Each view is moved to its mean and turned, so that neither place nor height tells a point.
STEPS = [Centre(), Rotate(axis="any"), Voxels(), Jitter(sigma=0.0), FeatureNoise(), FeatureDrop()]
GUARDS = {"independent rotations": {"points": {"centre": None, "rotate": None}}}

view = Views(2, fixed=True, kind=CloudPair, guards=GUARDS, points=STEPS)
