"""PointNet: every point through the same layers, and the strongest answer of each cloud."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.transforms.points import PointsPreprocess
from mmssl.types import Encoder, Features, Ragged


class PointNet(Encoder):
    """A shared MLP on the points and a maximum over each cloud, whatever their order. Qi et al., CVPR 2017.

    widths: of the layers; the last is D.
    points: how many of a cloud are kept at most.
    features: "color", "normal", "shape", "surface" beside x, y, z.
    coordinates: whether x, y, z are read; without them features that no turn changes make tokens that none changes.
    centre: whether each cloud's mean is moved to the origin.
    align: whether a small network first turns each cloud (the T-Net of the paper).
    """

    modality = "points"

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (64, 128, 512),
        points: int | None = 2048,
        features: tuple[str, ...] = (),
        coordinates: bool = True,
        centre: bool = False,
        align: bool = False,
    ) -> None:
        super().__init__()
        if not coordinates and (align or not features):
            raise UserError("pointnet: without coordinates there must be features, and nothing is there to align")
        self.dim, self.coordinates = widths[-1], coordinates
        self.preprocess = PointsPreprocess(points=points, features=features, centre=centre)
        self.align = TNet() if align else None
        self.layers = _shared(self.preprocess.blank().shape[1] - (0 if coordinates else 3), *widths)

    def forward(self, x: Ragged) -> Features:
        """Encodes packed clouds (sum N, C): x, y, z, then features."""
        cloud, values = x.sample, x.values if self.coordinates else x.values[:, 3:]
        if self.align is not None:
            turn = self.align(values[:, :3], cloud, len(x))  # (B, 3, 3)
            turned = torch.einsum("ni,nij->nj", values[:, :3], turn[cloud].to(values.dtype))
            values = torch.cat([turned, values[:, 3:]], dim=1)
        tokens = self.layers(values)  # (sum N, D)
        return Features(cloud_max(tokens, cloud, len(x)), tokens, lengths=x.lengths)


class TNet(nn.Module):
    """Predicts the 3x3 matrix (B, 3, 3) that turns each cloud, starting from none."""

    def __init__(self) -> None:
        super().__init__()
        self.points = _shared(3, 32, 64, 256)
        last = nn.Linear(64, 9)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.matrix = nn.Sequential(nn.Linear(256, 64), nn.ReLU(inplace=True), last)

    def forward(self, xyz: Tensor, cloud: Tensor, clouds: int) -> Tensor:
        change = self.matrix(cloud_max(self.points(xyz), cloud, clouds)).view(-1, 3, 3)
        return change + torch.eye(3, device=xyz.device, dtype=change.dtype)


def cloud_max(x: Tensor, cloud: Tensor, clouds: int) -> Tensor:
    """Returns the maximum (B, D) over the points (sum N, D) of each cloud."""
    start = x.new_zeros(clouds, x.shape[1])
    return start.scatter_reduce(0, cloud[:, None].expand_as(x), x, "amax", include_self=False)


def _shared(*widths: int) -> nn.Sequential:
    """Linear, BatchNorm and ReLU for each width after the first, on points (sum N, C)."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


encoder = PointNet
