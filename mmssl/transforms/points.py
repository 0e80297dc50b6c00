"""Point clouds: what an encoder is shown, and the random operations that views are made of."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import points as clouds
from mmssl.modalities.points import FAR, Cloud
from mmssl.schema import Positive, at_least
from mmssl.transforms.base import Chance, Step, chance, check_range, one
from mmssl.types import Preprocess, Ragged

RADII = (0.1, 0.2, 0.4)  # m, of local shape
WIDTH = {"color": 3, "normal": 3, "shape": 3 * len(RADII)}


@dataclass
class PointsPreprocess(Preprocess):
    """Thins a cloud to at most `points` and lays it out as float32 (N, C): x, y, z, then the features.

    features: "color" (in [0, 1]), "normal" and "shape" (see local_shape), in the order given, after the coordinates.
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
        for name in self.features:
            part = {"color": clouds.as_float(cloud.color), "normal": cloud.normal}.get(name)
            part = local_shape(cloud.xyz) if name == "shape" else part
            if part is None:
                raise DamagedError(f"a cloud without {name}")
            parts.append(part)
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


def thinned(shown: Placed, points: int | None) -> Placed:
    """Draws at most this many points, without repetition."""
    count = len(shown.cloud)
    if points is None or count <= points:
        return shown
    return shown.pick(np.random.choice(count, points, replace=False))


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


def random_scale(cloud: Cloud, *, scale: tuple[float, float] = (0.8, 1.25)) -> Cloud:
    """Makes a cloud larger or smaller about the origin."""
    return replace(cloud, xyz=cloud.xyz * np.float32(random.uniform(*scale)))


def grid_index(cloud: Cloud, voxel: float) -> np.ndarray:
    """Returns the sorted index of one point, the first, of each cube of `voxel` metres."""
    return np.sort(np.unique(np.floor(cloud.xyz / voxel).astype(np.int64), axis=0, return_index=True)[1])


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


def local_shape(xyz: np.ndarray) -> np.ndarray:
    """Describes each point (N, 3) by the shape of what lies around it, whichever way it is turned; (N, 9) float32.

    The square roots of the eigenvalues, ascending, of the covariance of the points within 0.1, 0.2 and 0.4 m, in units
    of that radius. Weinmann et al., ISPRS Journal 2015.
    """
    from scipy.sparse import coo_matrix
    from scipy.spatial import cKDTree

    xyz = xyz.astype(np.float64)
    xyz -= xyz.mean(axis=0)
    tree, own, found = cKDTree(xyz), np.arange(len(xyz)), []
    moments = np.concatenate([np.ones((len(xyz), 1)), xyz, _outer(xyz)], axis=1)  # (N, 1 + 3 + 9)
    for radius in RADII:
        i, j = tree.query_pairs(radius, output_type="ndarray").T
        near = coo_matrix((np.ones(2 * len(i) + len(own)), (np.r_[i, j, own], np.r_[j, i, own])))
        sums = near.tocsr() @ moments
        mean = sums[:, 1:] / sums[:, :1]
        spread = (mean[:, 3:] - _outer(mean[:, :3])).reshape(-1, 3, 3)
        found.append(np.sqrt(np.linalg.eigvalsh(spread).clip(min=0)) / radius)
    return np.concatenate(found, axis=1).astype(np.float32)


def _outer(xyz: np.ndarray) -> np.ndarray:
    return (xyz[:, :, None] * xyz[:, None, :]).reshape(len(xyz), 9)


@dataclass(slots=True)
class Placed:
    """A cloud in the making of a view: which points of the source remain, and the map (4, 4) from there to the view."""

    cloud: Cloud
    index: np.ndarray
    to_view: np.ndarray

    @staticmethod
    def whole(cloud: Cloud) -> Placed:
        return Placed(cloud, np.arange(len(cloud)) if cloud.kept is None else cloud.kept, np.eye(4))

    def pick(self, index: np.ndarray) -> Placed:
        """Keeps some of the points."""
        return Placed(self.cloud.pick(index), self.index[index], self.to_view)

    def place(self, columns: Tensor) -> Tensor:
        """Returns the map (3, 4) back to the source of points as they were laid out, maybe shifted: columns (N, C)."""
        step = np.eye(4)
        step[:3, 3] = columns[0, :3].numpy() - self.cloud.xyz[0]
        return torch.from_numpy(np.linalg.inv(step @ self.to_view)[:3].astype(np.float32))

    def moved(self, cloud: Cloud, matrix: np.ndarray, shift: np.ndarray | float = 0.0) -> Placed:
        """Returns the cloud after points were taken by a matrix (3, 3) and then a shift (3,)."""
        step = np.eye(4)
        step[:3, :3], step[:3, 3] = matrix, shift
        return Placed(cloud, self.index, step @ self.to_view)


class OnCloud(Step):
    """A step on a point cloud in a data worker. selects: whether all it does is to choose points."""

    modalities: ClassVar[tuple[str, ...]] = ("points",)
    selects: ClassVar[bool] = False

    def __call__(self, shown: Placed) -> Placed:
        raise NotImplementedError


@dataclass(kw_only=True)
class Crop(OnCloud):
    """Keeps the points nearest to a random one.

    share: range of the share of points that is kept.
    """

    selects: ClassVar[bool] = True
    share: tuple[float, float] = (0.5, 1.0)

    def __post_init__(self) -> None:
        check_range("crop.share", self.share, 0.01, 1.0)

    def __call__(self, shown: Placed) -> Placed:
        return shown.pick(crop_index(shown.cloud, random.uniform(*self.share)))

    def varies(self) -> bool:
        return self.share[0] < 1


@dataclass(kw_only=True)
class Hole(OnCloud):
    """Drops the points nearest to a random one.

    share: of the points.
    """

    selects: ClassVar[bool] = True
    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise UserError(f"hole.share is {self.share}; expected a share from 0 to below 1")

    def __call__(self, shown: Placed) -> Placed:
        if not self.share or len(shown.cloud) < 2:
            return shown
        return shown.pick(np.delete(np.arange(len(shown.cloud)), crop_index(shown.cloud, self.share)))

    def varies(self) -> bool:
        return self.share > 0


@dataclass(kw_only=True)
class Centre(OnCloud):
    """Moves the mean of the points to the origin."""

    def __call__(self, shown: Placed) -> Placed:
        return shown.moved(centred(shown.cloud), np.eye(3), -mean(shown.cloud))

    def varies(self) -> bool:
        return False


@dataclass(kw_only=True)
class Rotate(OnCloud):
    """Turns the points about the origin.

    axis: about the vertical, or any way.
    """

    axis: Literal["vertical", "any"] = "vertical"

    def __call__(self, shown: Placed) -> Placed:
        turn = random_rotation(axis=self.axis)
        return shown.moved(rotate(shown.cloud, turn), turn)


@dataclass(kw_only=True)
class Mirror(OnCloud):
    """Flips x, and likewise y.

    p: the probability of either.
    """

    p: Chance = 0.5

    def __call__(self, shown: Placed) -> Placed:
        for axis in (0, 1):
            if chance(one(self.p)):
                sign = np.where(np.arange(3) == axis, -1.0, 1.0)
                shown = shown.moved(mirror(shown.cloud, axis=axis), np.diag(sign))
        return shown

    def varies(self) -> bool:
        return 0 < one(self.p) < 1


@dataclass(kw_only=True)
class Scale(OnCloud):
    """Makes the cloud larger or smaller about the origin.

    factor: range of the factor.
    """

    factor: tuple[float, float] = (0.8, 1.25)

    def __post_init__(self) -> None:
        check_range("scale.factor", self.factor, 0.01, 100.0)

    def __call__(self, shown: Placed) -> Placed:
        factor = np.float32(random.uniform(*self.factor))
        cloud = replace(shown.cloud, xyz=shown.cloud.xyz * factor)
        return shown.moved(cloud, np.eye(3) * factor)

    def varies(self) -> bool:
        return self.factor[0] < self.factor[1]


@dataclass(kw_only=True)
class Jitter(OnCloud):
    """Moves every point by Gaussian noise.

    sigma: its deviation in metres.
    """

    sigma: Annotated[float, at_least(0)] = 0.01

    def __call__(self, shown: Placed) -> Placed:
        return replace(shown, cloud=jitter(shown.cloud, sigma=self.sigma)) if self.sigma else shown

    def varies(self) -> bool:
        return self.sigma > 0
