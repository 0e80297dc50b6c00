"""Sparse residual U-Net: point clouds as occupied voxels, and a feature for every point."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mmssl.encoders.pointnet import cloud_max
from mmssl.errors import UserError, did_you_mean
from mmssl.nn.sparse import Backend, RowNorm, SparseConv, choose_backend, make_isotropic
from mmssl.nn.voxels import Sites
from mmssl.transforms.points import PointsPreprocess
from mmssl.types import Encoder, Features, Ragged

VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # planes and layers
    "res16unet34c": ((32, 64, 128, 256, 256, 128, 96, 96), (2, 3, 4, 6, 2, 2, 2, 2)),
    "res16unet18a": ((32, 64, 128, 256, 128, 128, 96, 96), (2,) * 8),
    "res16unet14a": ((32, 64, 128, 256, 128, 128, 96, 96), (1,) * 8),
    "tiny": ((16, 32, 48, 64, 32, 32), (1,) * 6),
}


class SparseUNet(Encoder):
    """Residual stages down and up again, joined at equal grids. Choy et al., CVPR 2019; Xie et al., ECCV 2020.

    variant: res16unet34c is PointContrast's; tiny is for a CPU.
    planes: width of each stage, the first half going down, the second up; another number than the variant's have one
        block each.
    layers: blocks of each stage.
    voxel: size in metres; points of one voxel share its features.
    points: how many of a cloud are kept at most.
    features: "color", "normal", "shape", "surface", averaged over a voxel's points; without any, and without
        coordinates, the feature is 1.
    coordinates: whether x, y, z are features too.
    stem_kernel: side of the first convolution in voxels.
    isotropic: whether the offsets of a kernel that are equally far from its middle share their weights: with "shape" or
        "surface" alone quarter turns then change nothing, and other turns little.
    pool: over a cloud's voxels.
    backend: plain PyTorch, or on a GPU spconv, or auto for spconv where it is installed.
    """

    modality = "points"

    def __init__(
        self,
        variant: Literal["res16unet34c", "res16unet18a", "res16unet14a", "tiny"] = "res16unet34c",
        *,
        planes: tuple[int, ...] | None = None,
        layers: tuple[int, ...] | None = None,
        voxel: float = 0.025,
        points: int | None = None,
        features: tuple[str, ...] = (),
        coordinates: bool = False,
        stem_kernel: Literal[3, 5] = 3,
        isotropic: bool = False,
        pool: Literal["mean", "max"] = "mean",
        backend: Backend = "torch",
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise UserError(f"sparse_unet has no variant {variant!r}; {did_you_mean(variant, VARIANTS)}")
        known_planes, known_layers = VARIANTS[variant]
        planes = planes or known_planes
        layers = layers or (known_layers if len(planes) == len(known_planes) else (1,) * len(planes))
        if len(planes) != len(layers) or len(planes) % 2:
            raise UserError(f"sparse_unet: {len(planes)} planes, {len(layers)} layers; give as many, an even number")
        if voxel <= 0:
            raise UserError(f"sparse_unet: voxel is {voxel}; expected a size in metres above 0")
        self.dim, self.voxel, self.coordinates, self.pool = planes[-1], voxel, coordinates, pool
        self.preprocess = PointsPreprocess(points=points, features=features)
        inputs = self.preprocess.blank().shape[1] - (0 if coordinates else 3)
        self.stem = ConvNorm(max(inputs, 1), planes[0], stem_kernel)
        half = len(planes) // 2
        joined = (planes[0], *planes[: half - 1])  # widths of the stem and of the stages down but the last
        self.down = nn.ModuleList(map(Down, joined, planes[:half], layers[:half]))
        self.up = nn.ModuleList(map(Up, planes[half - 1 :], reversed(joined), planes[half:], layers[half:]))
        if isotropic:
            make_isotropic(self)
        choose_backend(self, backend)

    def forward(self, x: Ragged) -> Features:
        """Encodes packed clouds (sum N, C): x, y, z, then features."""
        sites, index = voxelize(x.values[:, :3], x.sample, len(x), self.voxel)
        values = x.values if self.coordinates else x.values[:, 3:]
        values = values if values.shape[1] else torch.ones_like(x.values[:, :1])
        voxels = self.over(sites, mean_of(values, index, len(sites)))  # (V, D)
        pool = mean_of if self.pool == "mean" else cloud_max
        pooled = pool(voxels, sites.coords[:, 0], len(x))
        return Features(pooled, voxels.index_select(0, index), lengths=x.lengths)

    def over(self, sites: Sites, x: Tensor) -> Tensor:
        """Takes features of the voxels (V, C), down and up again, to (V, D)."""
        x = self.stem(x, sites)
        passed = []
        for down in self.down:
            passed.append((x, sites))
            x, sites = down(x, sites), sites.coarser()
        for up in self.up:
            x = up(x, *passed.pop())
        return x


class ConvNorm(nn.Module):
    """A sparse convolution, its normalisation and, unless told otherwise, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: Literal[1, 2] = 1,
        transposed: bool = False,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = SparseConv(inputs, outputs, kernel, stride=stride, transposed=transposed)
        self.norm = RowNorm(outputs)
        self.relu = relu

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        x = self.norm(self.conv(x, sites))
        return x.relu_() if self.relu else x


class Residual(nn.Module):
    """Two submanifold convolutions around a short cut. He et al., CVPR 2016."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = ConvNorm(inputs, outputs, 3), ConvNorm(outputs, outputs, 3, relu=False)
        self.short = ConvNorm(inputs, outputs, 1, relu=False) if inputs != outputs else None

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        short = x if self.short is None else self.short(x, sites)
        return self.second(self.first(x, sites), sites).add_(short).relu_()


class Blocks(nn.ModuleList):
    """Residual blocks on one grid."""

    def __init__(self, inputs: int, outputs: int, count: int) -> None:
        super().__init__(Residual(outputs if number else inputs, outputs) for number in range(count))

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        for block in self:
            x = block(x, sites)
        return x


class Down(nn.Module):
    """To voxels of twice the size, and residual blocks there."""

    def __init__(self, inputs: int, outputs: int, count: int) -> None:
        super().__init__()
        self.step = ConvNorm(inputs, inputs, 2, stride=2)
        self.blocks = Blocks(inputs, outputs, count)

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        """sites: those that it comes from."""
        return self.blocks(self.step(x, sites), sites.coarser())


class Up(nn.Module):
    """Back to voxels of half the size, where what was known on the way down joins, and residual blocks."""

    def __init__(self, inputs: int, joined: int, outputs: int, count: int) -> None:
        super().__init__()
        self.step = ConvNorm(inputs, outputs, 2, stride=2, transposed=True)
        self.blocks = Blocks(outputs + joined, outputs, count)

    def forward(self, x: Tensor, known: Tensor, sites: Sites) -> Tensor:
        """known, sites: the features and voxels that it goes back to."""
        return self.blocks(torch.cat([self.step(x, sites), known], dim=1), sites)


def voxelize(xyz: Tensor, cloud: Tensor, clouds: int, size: float) -> tuple[Sites, Tensor]:
    """Returns the voxels of points (P, 3), counted from each cloud's lowest corner, and every point's index (P,)."""
    cells = torch.floor(xyz.double() / size)
    low = cells.new_zeros(clouds, 3).scatter_reduce(0, cloud[:, None].expand(-1, 3), cells, "amin", include_self=False)
    cells = (cells - low[cloud]).clamp(max=2**40)  # what is larger is refused, but must not overflow first
    return Sites.of(torch.cat([cloud[:, None], cells.long()], dim=1))


def mean_of(x: Tensor, group: Tensor, groups: int) -> Tensor:
    """Returns the mean (groups, C) of the rows (N, C) of each group, 0 where there are none."""
    dtype = torch.promote_types(x.dtype, torch.float32)  # a sum of thousands
    total = x.new_zeros(groups, x.shape[1], dtype=dtype).index_add(0, group, x.to(dtype))
    return (total / torch.bincount(group, minlength=groups).clamp(min=1)[:, None]).to(x.dtype)


encoder = SparseUNet
