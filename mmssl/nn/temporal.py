"""What makes a pooled feature know when something happened, not only that it did."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Temporal(nn.Module):
    """Mixes each cell with itself in the neighbouring moments, pools over space, and weighs moments by learnt profiles.

    (B, T, N, D) cells, N of them at each of T moments, become (B, D): the mean over time of each channel times its
    profile, which is learnt at `moments` points of the window and interpolated to any T.
    The result is centred by BatchNorm: losses that pull pairs together, such as the margin loss, start by pulling
    everything into one point without it.

    depth: residual blocks of temporal convolutions, each of which sees one moment more to either side.
    """

    def __init__(self, dim: int, *, depth: int, moments: int = 16) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Mix(dim) for _ in range(depth))
        self.pool = nn.Sequential(nn.Linear(2 * dim, dim), nn.LayerNorm(dim), nn.ReLU())
        self.profiles = nn.Parameter(torch.randn(1, dim, moments))
        self.out = nn.BatchNorm1d(dim)

    def forward(self, cells: Tensor) -> Tensor:
        batch, time, number, dim = cells.shape
        x = cells.permute(0, 2, 3, 1).reshape(batch * number, dim, time)
        for block in self.blocks:
            x = block(x)
        x = x.view(batch, number, dim, time)
        x = self.pool(torch.cat([x.mean(1), x.amax(1)], dim=1).transpose(1, 2))  # (B, T, D)
        each = torch.eye(self.profiles.shape[2], device=x.device)[None]
        shares = F.interpolate(each, size=time, mode="linear", align_corners=False)[0]  # (moments, T)
        # not interpolated themselves: a GPU sums that gradient in any order
        profiles = (self.profiles[0, :, :, None] * shares).sum(dim=1).T  # (T, D)
        return self.out((x * profiles).mean(1))


class Mix(nn.Module):
    """Adds what a normalised convolution over time makes of (B, D, T)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)
        self.conv = nn.Conv1d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.relu(self.norm(x)))
