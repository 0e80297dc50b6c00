"""The steps of views of point clouds, and what they change: a cloud that knows where it came from."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.modalities.points import Cloud
from mmssl.schema import above, at_least
from mmssl.transforms import points
from mmssl.transforms.base import Chance, Step, chance, check_range, one


@dataclass(slots=True)
class Placed:
    """A cloud in the making of a view: which points of the source remain, and the map (4, 4) from there to the view."""

    cloud: Cloud
    index: np.ndarray
    to_view: np.ndarray

    @staticmethod
    def whole(cloud: Cloud) -> Placed:
        return Placed(cloud, np.arange(len(cloud)), np.eye(4))

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


def thinned(shown: Placed, limit: int | None) -> Placed:
    """Draws at most this many points, without repetition."""
    count = len(shown.cloud)
    if limit is None or count <= limit:
        return shown
    return shown.pick(np.random.choice(count, limit, replace=False))


def together(*views: Placed) -> list[Placed]:
    """Moves clouds in one frame, all by the same, to where float32 holds them to a millimetre."""
    near = points.nearby(*(view.cloud for view in views))
    return [
        view.moved(cloud, np.eye(3), cloud.xyz[0].astype(np.float64) - view.cloud.xyz[0])
        for view, cloud in zip(views, near, strict=True)
    ]


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
        return shown.pick(points.crop_index(shown.cloud, random.uniform(*self.share)))

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
        return shown.pick(np.delete(np.arange(len(shown.cloud)), points.crop_index(shown.cloud, self.share)))

    def varies(self) -> bool:
        return self.share > 0


@dataclass(kw_only=True)
class Centre(OnCloud):
    """Moves the mean of the points to the origin."""

    def __call__(self, shown: Placed) -> Placed:
        return shown.moved(points.centred(shown.cloud), np.eye(3), -points.mean(shown.cloud))

    def varies(self) -> bool:
        return False


@dataclass(kw_only=True)
class Rotate(OnCloud):
    """Turns the points about the origin.

    axis: about the vertical, or any way.
    """

    axis: Literal["vertical", "any"] = "vertical"

    def __call__(self, shown: Placed) -> Placed:
        turn = points.random_rotation(axis=self.axis)
        return shown.moved(points.rotate(shown.cloud, turn), turn)


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
                shown = shown.moved(points.mirror(shown.cloud, axis=axis), np.diag(sign))
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
        factor = random.uniform(*self.factor)
        return shown.moved(points.scaled(shown.cloud, factor), np.eye(3) * factor)

    def varies(self) -> bool:
        return self.factor[0] < self.factor[1]


@dataclass(kw_only=True)
class Jitter(OnCloud):
    """Moves every point by Gaussian noise.

    sigma: its deviation in metres.
    """

    sigma: Annotated[float, at_least(0)] = 0.01

    def __call__(self, shown: Placed) -> Placed:
        return replace(shown, cloud=points.jitter(shown.cloud, sigma=self.sigma)) if self.sigma else shown

    def varies(self) -> bool:
        return self.sigma > 0


@dataclass(kw_only=True)
class Voxels(OnCloud):
    """Keeps one point of each cube of space.

    size: side of a cube in metres.
    """

    selects: ClassVar[bool] = True
    size: Annotated[float, above(0)] = 0.025

    def __call__(self, shown: Placed) -> Placed:
        return shown.pick(points.grid_index(shown.cloud, self.size))

    def varies(self) -> bool:
        return False


class OnFeatures(Step):
    """A step on what an encoder reads of each point beside its coordinates, (N, C), in a data worker.

    It alone does not set views apart: an encoder may read coordinates only.
    """

    modalities: ClassVar[tuple[str, ...]] = ("points",)

    def __call__(self, features: Tensor) -> Tensor:
        raise NotImplementedError

    def varies(self) -> bool:
        return False


@dataclass(kw_only=True)
class FeatureNoise(OnFeatures):
    """Adds Gaussian noise to colours, normals and shapes, as the encoder reads them.

    sigma: its deviation, in the features' units.
    """

    sigma: Annotated[float, at_least(0)] = 0.01

    def __call__(self, features: Tensor) -> Tensor:
        return features + self.sigma * torch.randn_like(features)


@dataclass(kw_only=True)
class FeatureDrop(OnFeatures):
    """Sets all features of a cloud to 1, so that its coordinates alone tell.

    p: the probability.
    """

    p: Chance = 0.0

    def __call__(self, features: Tensor) -> Tensor:
        return torch.ones_like(features) if chance(one(self.p)) else features
