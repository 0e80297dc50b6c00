"""Registration: how many points of a scan find their place in another scan of the scene."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmssl import dist
from mmssl.data.in_workers import Made, in_workers
from mmssl.data.subset import limited
from mmssl.evals.parts.descriptors import coordinates, encoded, fpfh, open3d, pose_errors, ransac
from mmssl.evals.parts.needs import Declared, EncoderNeed, Needs, require_encoder
from mmssl.evals.parts.progress import passing
from mmssl.evals.parts.report import no_samples_error, usable
from mmssl.evals.parts.score import bootstrap, named
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.untrained import untrained, warming
from mmssl.transforms.pairs import POSES, Scan, fixed_scans, nearest_features, right_pairs
from mmssl.transforms.local_shape import local_shape
from mmssl.types import Encoder, Score, Trained

Ways = dict[str, Callable[[Scan], Tensor]]  # prefix of the figures' names -> features (N, D) of a scan
UNLEARNT = ("coordinates", "shape", "fpfh")
WARM = 8  # pairs that set the statistics of random weights


class Register(Declared):
    """Hit ratio, feature-match recall and registration recall, beside features that nothing has learnt.

    Each cloud is turned on its own about its mean, always alike. A match is right within `threshold` under the true
    pose. trivial is the best of what is not learnt: fpfh, the local shape, the place about the mean.
    Each figure keeps that of each pair. Deng et al., CVPR 2018 (PPFNet); Choy et al., ICCV 2019 (FCGF).

    data: posed pairs, with `poses` as CloudPair has them.
    encoder: its key.
    space: the task whose embedding of points is used; without it the tokens themselves.
    poses: keys of the sample's meta that hold the poses of the two scans; None where both have one frame.
    voxel: metres, of which one point is kept.
    points: of a cloud at most.
    rotation: by which each cloud is turned: none, about the vertical, or any.
    matching: each point to the nearest in feature space, or only those that are so both ways (mutual).
    threshold: metres within which a match is right.
    inliers: share of right matches above which a pair counts for feature-match recall.
    fpfh: compare with Rusu et al., ICRA 2009; needs open3d.
    ransac: measure registration recall, the share of pairs whose pose RANSAC finds; needs open3d.
    rotation_error: degrees within which a pose is found.
    translation_error: metres within which a pose is found.
    baselines: also judge the encoder with random weights.
    limit: pairs at most, drawn from a fixed seed.
    """

    def __init__(
        self,
        *,
        data: dict[str, Any],
        encoder: str = "points",
        space: str | None = None,
        poses: tuple[str, str] | None = POSES,
        limit: int | None = None,
        voxel: float = 0.05,
        points: int = 5000,
        rotation: Literal["none", "vertical", "any"] = "any",
        matching: Literal["one_way", "mutual"] = "one_way",
        threshold: float = 0.1,
        inliers: float = 0.05,
        fpfh: bool = True,
        ransac: bool = True,
        rotation_error: float = 15.0,
        translation_error: float = 0.3,
        baselines: bool = True,
    ) -> None:
        self.source = limited(open_source(data), limit)
        if fpfh or ransac:
            open3d()
        self.encoder, self.space, self.mutual = encoder, space, matching == "mutual"
        self.shown: dict[str, Any] = {"poses": poses, "voxel": voxel, "points": points, "rotation": rotation}
        self.threshold, self.inliers, self.fpfh, self.ransac = threshold, inliers, fpfh, ransac
        self.baselines = baselines
        self.voxel, self.errors = voxel, (rotation_error, translation_error)

    def needs(self, trained: Trained) -> Needs:
        need = EncoderNeed(space=self.space, modalities=("points",))
        return Needs(encoders={self.encoder: need}, data={"data": (self.source, self._wanted())})

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields hit_ratio, feature_match_recall and registration_recall, then those of fpfh and the like."""
        encoder = require_encoder(trained, self.encoder, space=self.space, modalities=("points",))
        ways: Ways = {
            "": partial(self._features, encoder),
            **({"random_init/": partial(self._features, self._unlearnt(encoder))} if self.baselines else {}),
            "coordinates/": lambda scan: coordinates(scan.cloud.xyz, rotation=self.shown["rotation"]),
            "shape/": lambda scan: torch.from_numpy(local_shape(scan.cloud.xyz)),
        }
        if self.fpfh:
            ways["fpfh/"] = lambda scan: fpfh(scan.cloud.xyz, eye=scan.eye, voxel=self.voxel)
        keys, table = self._table(ways)
        for name, values in table.items():
            way, _, figure = name.rpartition("/")
            if way == "chance":
                continue
            unlearnt = [float(table[f"{w}/{figure}"].mean()) for w in UNLEARNT if f"{w}/{figure}" in table]
            trivial = max(unlearnt, default=None) if way in ("", "random_init") else None
            chance, parts = float(table[f"chance/{figure}"].mean()), named(keys, values.tolist())
            yield name, bootstrap(values, chance=chance, trivial=trivial, parts=parts)

    def _features(self, encoder: Encoder, scan: Scan) -> Tensor:
        return encoded(encoder, scan.cloud, space=self.space)

    def _unlearnt(self, encoder: Encoder) -> Encoder:
        """Returns the encoder, and the space's head, with random weights whose BatchNorm has seen some pairs."""
        fresh = untrained(encoder, spaces=[self.space])
        with warming(fresh):
            for pair in islice(self._scans(), WARM):
                for scan in pair.value or ():
                    self._features(fresh, scan)
        return fresh

    def _scans(self, *, rank: int = 0, world: int = 1) -> Iterator[Made[tuple[Scan, Scan]]]:
        """Yields the scans of this process's pairs; damaged ones are left out."""
        make = partial(fixed_scans, **self.shown)
        scans = in_workers(self.source, self._wanted(), make, rank=rank, world=world)
        return usable(passing(self.source, scans, world=world))

    def _wanted(self) -> set[str]:
        return {"points", "points_b", *(["meta"] if self.shown["poses"] else [])}

    def _table(self, ways: Ways) -> tuple[list[str], dict[str, Tensor]]:
        """Returns the keys of the pairs of every process, and figure -> its values over them (N,)."""
        mine = []
        for pair in self._scans(rank=dist.rank(), world=dist.world()):
            assert pair.value is not None
            mine.append((pair.place, pair.about["__key__"], self._judge(*pair.value, ways)))
        found = sorted((row for part in dist.gather_objects(mine) for row in part), key=lambda row: row[0])
        if not found:
            raise no_samples_error("the evaluation data has no whole pair of clouds with poses")
        rows = [row for _, _, row in found]
        return [key for _, key, _ in found], {name: torch.tensor([float(r[name]) for r in rows]) for name in rows[0]}

    def _judge(self, a: Scan, b: Scan, ways: Ways) -> dict[str, float]:
        from scipy.spatial import cKDTree

        near = cKDTree(b.place).query_ball_point(a.place, self.threshold, return_length=True)
        ratios = {"chance/": float(near.mean() / len(b.place))}
        row = {}
        for way, features in ways.items():
            pairs = nearest_features(features(a), features(b), mutual=self.mutual)
            ratios[way] = float(right_pairs(pairs, a.place, b.place, self.threshold).mean()) if len(pairs) else 0.0
            if self.ransac and way in ("", "fpfh/"):
                row[f"{way}registration_recall"] = self._registered(a, b, pairs)
        row = {f"{way}hit_ratio": ratio for way, ratio in ratios.items()} | row
        row |= {f"{way}feature_match_recall": float(ratio > self.inliers) for way, ratio in ratios.items()}
        return row | {"chance/registration_recall": 0.0}

    def _registered(self, a: Scan, b: Scan, pairs: Tensor) -> float:
        found = ransac(a.cloud.xyz, b.cloud.xyz, pairs, voxel=self.voxel)
        degrees, metres = pose_errors(found, np.linalg.inv(b.pose) @ a.pose)
        return float(degrees <= self.errors[0] and metres <= self.errors[1])


evaluation = Register
