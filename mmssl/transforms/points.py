"""Point clouds: what an encoder is shown, and the operations that the steps of views are made of."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mmssl.errors import LackingError, UserError
from mmssl.modalities import points as clouds
from mmssl.modalities.points import FAR, Cloud
from mmssl.schema import Positive
from mmssl.transforms.local_shape import RADII, cell_keys, local_shape, local_surface
from mmssl.types import Preprocess, Ragged

WIDTH = {"color": 3, "normal": 3, "shape": 3 * len(RADII), "surface": 12 * (len(RADII) + 1)}


@dataclass
class PointsPreprocess(Preprocess):
    """Thins a cloud to at most `points` and lays it out as float32 (N, C): x, y, z, then the features.

    features: "color" (in [0, 1]), "normal", "shape" and "surface" (see local_shape and local_surface; the latter needs
        normals), in the order given, after the coordinates.
    centre: moves the mean to the origin.
    A batch is packed, (sum N, C); a sample without a cloud is one point at the origin.
    """

    modality: ClassVar[str] = "points"

    points: Positive | None = 4096
    features: tuple[str, ...] = ()
    centre: bool = False

    def __post_init__(self) -> None:
        self.features = tuple(self.features)
        for name in self.features:
            if name not in WIDTH:
                raise UserError(f"points have no feature {name!r}; known: {', '.join(WIDTH)}")
        self.notes: Counter[str] = Counter()

    def __call__(self, raw: Any) -> Tensor:
        cloud = clouds.load(raw)
        if self.points is not None and len(cloud) > self.points:
            cloud = cloud.pick(np.sort(np.random.default_rng(0).permutation(len(cloud))[: self.points]))
        return self.columns(cloud)

    def columns(self, cloud: Cloud) -> Tensor:
        """Lays a cloud out as (N, C), unthinned; one far from the origin is moved near it (see `nearby`)."""
        if cloud.dropped:
            self.notes["points that are not finite"] += cloud.dropped
        parts = [centred(cloud).xyz if self.centre else nearby(cloud)[0].xyz]
        parts += [_feature(cloud, name) for name in self.features]
        return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))

    def items(self, inputs: Any) -> list[Any]:
        """Takes one cloud or several: a list, or a 3-D array or tensor (B, N, C)."""
        if isinstance(inputs, np.ndarray | Tensor) and inputs.ndim == 3:
            return list(inputs)
        return super().items(inputs)

    def collate(self, items: Sequence[Tensor]) -> Ragged:
        return Ragged.pack(items)

    def take_notes(self) -> Counter[str]:
        notes, self.notes = self.notes, Counter()
        return notes

    def blank(self) -> Tensor:
        return torch.zeros(1, 3 + sum(WIDTH[name] for name in self.features))


def _feature(cloud: Cloud, name: str) -> np.ndarray:
    """Returns what a feature says of each point (N, C); LackingError for a cloud that has not what it takes."""
    if name == "shape":
        return local_shape(cloud.xyz)
    part = clouds.as_float(cloud.color) if name == "color" else cloud.normal
    if part is None:
        raise LackingError(f"a cloud without {'normal' if name == 'surface' else name}")
    return local_surface(cloud.xyz, part) if name == "surface" else part


def random_rotation(*, axis: Literal["vertical", "any"] = "vertical") -> np.ndarray:
    """Draws a rotation (3, 3): about z, or uniform over all of them (Shoemake, Graphics Gems III, 1992)."""
    if axis == "vertical":
        angle = random.uniform(0, 2 * math.pi)
        c, s = math.cos(angle), math.sin(angle)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=np.float32)
    q = np.random.standard_normal(4)
    w, x, y, z = q / np.linalg.norm(q)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows, dtype=np.float32)


def rotate(cloud: Cloud, rotation: np.ndarray) -> Cloud:
    """Turns coordinates and normals about the origin by a rotation (3, 3)."""
    normal = None if cloud.normal is None else cloud.normal @ rotation.T
    return replace(cloud, xyz=cloud.xyz @ rotation.T, normal=normal)


def jitter(cloud: Cloud, *, sigma: float = 0.01) -> Cloud:
    """Moves every point by Gaussian noise of some metres."""
    noise = np.random.standard_normal(cloud.xyz.shape).astype(np.float32)
    return replace(cloud, xyz=cloud.xyz + sigma * noise)


def scaled(cloud: Cloud, factor: float) -> Cloud:
    """Makes a cloud larger or smaller about the origin."""
    return replace(cloud, xyz=cloud.xyz * np.float32(factor))


def grid_index(cloud: Cloud, voxel: float) -> np.ndarray:
    """Returns the sorted index of one point, the first, of each cube of `voxel` metres."""
    keys = cell_keys(np.floor(cloud.xyz / voxel))
    order = np.argsort(keys)
    ascending = keys[order]
    starts = np.flatnonzero(np.r_[True, ascending[1:] != ascending[:-1]])
    return np.sort(np.minimum.reduceat(order, starts))


def crop_index(cloud: Cloud, share: float) -> np.ndarray:
    """Returns the sorted index of that share of the points which lies nearest to a random one."""
    count = min(max(1, round(share * len(cloud))), len(cloud))
    distance = np.square(cloud.xyz - cloud.xyz[np.random.randint(len(cloud))]).sum(1)
    return np.sort(np.argpartition(distance, count - 1)[:count])


def centred(cloud: Cloud) -> Cloud:
    """Moves the mean of a cloud to the origin."""
    return replace(cloud, xyz=cloud.xyz - mean(cloud))


def mean(cloud: Cloud) -> np.ndarray:
    """Returns where the middle of a cloud is (3,), float64: a sum in float32 loses metres, or kilometres."""
    middle: np.ndarray = cloud.xyz.mean(axis=0, dtype=np.float64)
    return middle


def nearby(*clouds: Cloud) -> list[Cloud]:
    """Moves clouds in one frame, all by the same, to where float32 holds them to a millimetre.

    Along the axes where one of them is FAR from the origin the median of the first becomes 0; the others stay.
    """
    if all(cloud.xyz.dtype == np.float32 for cloud in clouds):
        return list(clouds)
    far = np.any([np.abs(cloud.xyz).max(axis=0) >= FAR for cloud in clouds], axis=0)
    shift = np.where(far, np.median(clouds[0].xyz, axis=0), 0)  # a mean would follow a few points in the wild
    return [replace(cloud, xyz=cloud.xyz - shift) for cloud in clouds]


def mirror(cloud: Cloud, *, axis: int) -> Cloud:
    """Flips a cloud, coordinates and normals, along one axis."""
    sign = np.where(np.arange(3) == axis, -1, 1).astype(np.float32)
    return replace(cloud, xyz=cloud.xyz * sign, normal=None if cloud.normal is None else cloud.normal * sign)
