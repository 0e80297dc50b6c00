"""Registration: how many points of a scan find their place in another scan of the scene."""

from __future__ import annotations

from collections import defaultdict
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
from mmssl.errors import UserError
from mmssl.evals.parts.descriptors import coordinates, encoded, fpfh, open3d, pose_errors, ransac, surface
from mmssl.evals.parts.needs import Declared, EncoderNeed, Needs, require_encoder
from mmssl.evals.parts.progress import passing
from mmssl.evals.parts.report import no_samples_error, usable
from mmssl.evals.parts.score import bootstrap, named, parted, rising
from mmssl.evals.parts.source import open_source
from mmssl.evals.parts.untrained import untrained, warming
from mmssl.transforms.local_shape import local_shape
from mmssl.transforms.pairs import POSES, Scan, angle, at_path, fixed_scans, nearest_features, right_pairs
from mmssl.types import Encoder, Sample, Score, Trained

Ways = dict[str, Callable[[Scan], Tensor]]  # prefix of the figures' names -> features (N, D) of a scan
UNLEARNT = ("coordinates", "shape", "surface", "fpfh")
WARM = 8  # pairs that set the statistics of random weights


class Register(Declared):
    """Hit ratio, feature-match recall and registration recall, beside features that nothing has learnt.

    Each cloud is turned on its own about its mean, always alike. A match is right within `threshold` under the true
    pose. trivial is the best of what is not learnt: fpfh, the local shape and, where the encoder reads it, surface, the
    place about the mean. ceiling is the share of points that the other scan shows at all, within `threshold`.
    Each figure keeps that of each pair, or of each room. Deng et al., CVPR 2018 (PPFNet); Choy et al., ICCV 2019.

    data: posed pairs, with `poses` as CloudPair has them.
    encoder: its key.
    space: the task whose embedding of points is used; without it the tokens themselves.
    poses: keys of the sample's meta that hold the poses of the two scans; None where both have one frame.
    voxel: metres, of which one point is kept.
    points: of a cloud at most.
    rotation: by which each cloud is turned: none, about the vertical, or any.
    cut: share of each cloud's points that is left on one side of a random plane, so that less is seen by both.
    matching: each point to the nearest in feature space, or only those that are so both ways (mutual).
    threshold: metres within which a match is right.
    inliers: share of right matches above which a pair counts for feature-match recall.
    angles: degrees between the two cameras that part the pairs into bins, each with a hit ratio of its own.
    overlaps: likewise of the ceiling, in the cloud where it is less.
    rooms: where in `meta` the name of the room, film or path stands whose figures are kept in place of each pair's.
    fpfh: compare with Rusu et al., ICRA 2009; needs open3d.
    fpfh_radius: metres around a point that FPFH counts, none for 5 voxels.
    fpfh_normals: metres for the normals that FPFH takes, none for 2 voxels; 0 for those of the cloud.
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
        cut: float = 1.0,
        matching: Literal["one_way", "mutual"] = "one_way",
        threshold: float = 0.1,
        inliers: float = 0.05,
        angles: tuple[float, ...] = (5, 15, 30),
        overlaps: tuple[float, ...] = (0.3, 0.6),
        rooms: str | None = None,
        fpfh: bool = True,
        fpfh_radius: float | None = None,
        fpfh_normals: float | None = None,
        ransac: bool = True,
        rotation_error: float = 15.0,
        translation_error: float = 0.3,
        baselines: bool = True,
    ) -> None:
        self.source = limited(open_source(data), limit)
        if fpfh or ransac:
            open3d()
        self.encoder, self.space, self.mutual = encoder, space, matching == "mutual"
        if not 0 < cut <= 1:
            raise UserError(f"register: cut is {cut:g}; expected a share above 0, up to 1")
        self.shown: dict[str, Any] = {
            "poses": poses,
            "voxel": voxel,
            "points": points,
            "rotation": rotation,
            "cut": cut,
        }
        self.threshold, self.inliers, self.fpfh, self.ransac = threshold, inliers, fpfh, ransac
        self.baselines, self.rooms = baselines, rooms
        self.bins = {"angle": rising("angles", angles), "overlap": rising("overlaps", overlaps)}
        self.radii = {
            "radius": fpfh_radius or 5 * voxel,
            "normals": 2 * voxel if fpfh_normals is None else fpfh_normals,
        }
        self.voxel, self.errors = voxel, (rotation_error, translation_error)

    def needs(self, trained: Trained) -> Needs:
        need = EncoderNeed(space=self.space, modalities=("points",))
        return Needs(encoders={self.encoder: need}, data={"data": (self.source, self._wanted())})

    def run(self, trained: Trained) -> Iterator[tuple[str, Score]]:
        """Yields hit_ratio, its bins, feature_match_recall and registration_recall, then those of fpfh and the like."""
        encoder = require_encoder(trained, self.encoder, space=self.space, modalities=("points",))
        ways: Ways = {
            "": partial(self._features, encoder),
            **({"random_init/": partial(self._features, self._unlearnt(encoder))} if self.baselines else {}),
            "coordinates/": lambda scan: coordinates(scan.cloud.xyz, rotation=self.shown["rotation"]),
            "shape/": lambda scan: torch.from_numpy(local_shape(scan.cloud.xyz)),
        }
        if "surface" in getattr(encoder.preprocess, "features", ()):
            ways["surface/"] = surface
        if self.fpfh:
            ways["fpfh/"] = lambda scan: fpfh(scan.cloud, eye=scan.eye, **self.radii)
        keys, table = self._table(ways)
        seen = {name: table.pop(name) for name in self.bins if name in table}
        yield from self._scores(keys, table)
        hits = {name: values for name, values in table.items() if name.endswith("hit_ratio")}
        for name, values in seen.items():
            for span, rows in parted(values, self.bins[name]):
                chosen = {f"{figure}_{name}_{span}": of[rows] for figure, of in hits.items()}
                yield from self._scores([keys[row] for row in rows.tolist()], chosen)

    def _scores(self, keys: list[str], table: dict[str, Tensor]) -> Iterator[tuple[str, Score]]:
        """Yields figure -> score of values over pairs (N,), beside chance and what is not learnt."""
        for name, values in table.items():
            way, _, figure = name.rpartition("/")
            if way == "chance":
                continue
            unlearnt = [float(table[f"{w}/{figure}"].mean()) for w in UNLEARNT if f"{w}/{figure}" in table]
            trivial = max(unlearnt, default=None) if way in ("", "random_init") else None
            chance = float(table[f"chance/{figure}"].mean())
            yield name, bootstrap(values, chance=chance, trivial=trivial, parts=self._parts(keys, values.tolist()))

    def _parts(self, keys: list[str], values: list[float]) -> dict[str, float]:
        """Returns the value of each pair by its key, or the mean of each room."""
        if self.rooms is None:
            return named(keys, values)
        found: dict[str, list[float]] = defaultdict(list)
        for key, value in zip(keys, values, strict=True):
            found[key].append(value)
        return {key: sum(each) / len(each) for key, each in found.items()}

    def _features(self, encoder: Encoder, scan: Scan) -> Tensor:
        return encoded(encoder, scan.cloud, space=self.space)

    def _unlearnt(self, encoder: Encoder) -> Encoder:
        """Returns the encoder, and the space's head, with random weights whose BatchNorm has seen some pairs."""
        fresh = untrained(encoder, spaces=[self.space])
        with warming(fresh):
            for pair in islice(self._scans(), WARM):
                assert pair.value is not None
                for scan in pair.value[0]:
                    self._features(fresh, scan)
        return fresh

    def _scans(self, *, rank: int = 0, world: int = 1) -> Iterator[Made[tuple[tuple[Scan, Scan], str]]]:
        """Yields the scans and the room of this process's pairs; damaged ones are left out."""
        make = partial(_shown, room=self.rooms, **self.shown)
        scans = in_workers(self.source, self._wanted(), make, rank=rank, world=world)
        return usable(passing(self.source, scans, world=world))

    def _wanted(self) -> set[str]:
        return {"points", "points_b", *(["meta"] if self.shown["poses"] or self.rooms else [])}

    def _table(self, ways: Ways) -> tuple[list[str], dict[str, Tensor]]:
        """Returns the keys or rooms of the pairs of every process, and figure -> its values over them (N,)."""
        mine = []
        for pair in self._scans(rank=dist.rank(), world=dist.world()):
            assert pair.value is not None
            scans, room = pair.value
            mine.append((pair.place, room or pair.about["__key__"], self._judge(*scans, ways)))
        found = sorted((row for part in dist.gather_objects(mine) for row in part), key=lambda row: row[0])
        if not found:
            raise no_samples_error("the evaluation data has no whole pair of clouds with poses")
        rows = [row for _, _, row in found]
        return [key for _, key, _ in found], {name: torch.tensor([float(r[name]) for r in rows]) for name in rows[0]}

    def _judge(self, a: Scan, b: Scan, ways: Ways) -> dict[str, float]:
        from scipy.spatial import cKDTree

        trees = cKDTree(a.place), cKDTree(b.place)
        near, back = (
            tree.query_ball_point(scan.place, self.threshold, return_length=True)
            for scan, tree in zip((a, b), reversed(trees), strict=True)
        )
        ratios = {"chance/": float(near.mean() / len(b.place)), "ceiling/": float((near > 0).mean())}
        row = {}
        for way, features in ways.items():
            pairs = nearest_features(features(a), features(b), mutual=self.mutual)
            ratios[way] = float(right_pairs(pairs, a.place, b.place, self.threshold).mean()) if len(pairs) else 0.0
            if self.ransac and way in ("", "fpfh/"):
                row[f"{way}registration_recall"] = self._registered(a, b, pairs)
        row = {f"{way}hit_ratio": ratio for way, ratio in ratios.items()} | row
        row |= {f"{way}feature_match_recall": float(ratio > self.inliers) for way, ratio in ratios.items()}
        row |= {"chance/registration_recall": 0.0, "overlap": min(ratios["ceiling/"], float((back > 0).mean()))}
        return row | ({"angle": angle(a.camera, b.camera)} if self.shown["poses"] else {})

    def _registered(self, a: Scan, b: Scan, pairs: Tensor) -> float:
        found = ransac(a.cloud.xyz, b.cloud.xyz, pairs, voxel=self.voxel)
        degrees, metres = pose_errors(found, np.linalg.inv(b.pose) @ a.pose)
        return float(degrees <= self.errors[0] and metres <= self.errors[1])


def _shown(sample: Sample, *, room: str | None, **shown: Any) -> tuple[tuple[Scan, Scan], str]:
    """Returns a pair's scans and its room, empty where none is asked for; LackingError for a sample without one."""
    return fixed_scans(sample, **shown), str(at_path(sample.get("meta"), room, "a scan without a room")) if room else ""


evaluation = Register
