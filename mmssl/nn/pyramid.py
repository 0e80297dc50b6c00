"""Pyramids: maps of several scales and one width, of an encoder's own maps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from mmssl.nn.stages import Stages


class FPN(nn.Module):
    """Adds to each map what the coarser ones tell: of any number of maps as many. Lin et al., CVPR 2017.

    channels: of each map, finest first.
    out: channels of each level.
    norm: BatchNorm behind each convolution, as SoCo has it (Wei et al., NeurIPS 2021).
    """

    def __init__(self, channels: Sequence[int], *, out: int = 256, norm: bool = False) -> None:
        super().__init__()
        self.layers = FeaturePyramidNetwork(list(channels), out, norm_layer=nn.BatchNorm2d if norm else None)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Returns the levels (B, out, H, W), as large as the maps."""
        return list(self.layers({str(number): found for number, found in enumerate(maps)}).values())


class SimplePyramid(nn.Module):
    """Makes four levels of one map: four and two times as fine, as it is, and half as fine. Li et al., ECCV 2022.

    Strided deconvolutions make the finer ones, max pooling the coarsest; behind them a 1x1 and a 3x3 convolution, each
    with LayerNorm over the channels.

    channels: of the map.
    out: channels of each level.
    """

    def __init__(self, channels: int, *, out: int = 256) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        finer = nn.ConvTranspose2d(channels, half, 2, 2)
        finest = nn.Sequential(
            nn.ConvTranspose2d(channels, half, 2, 2),
            ChannelNorm(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        )
        scaled = (finest, finer, nn.Identity(), nn.MaxPool2d(2, ceil_mode=True))
        widths = (quarter, half, channels, channels)
        self.levels = nn.ModuleList(
            nn.Sequential(part, *_normed(width, out, 1), *_normed(out, out, 3))
            for part, width in zip(scaled, widths, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Returns the levels (B, out, H, W) of the one map, finest first."""
        return [level(maps[0]) for level in self.levels]


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each cell of a map (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        channels_last = x.permute(0, 2, 3, 1)
        return F.layer_norm(channels_last, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


def pyramid(stages: Stages, *, out: int = 256, norm: bool = False) -> tuple[nn.Module, list[float]]:
    """Returns what makes levels of an encoder's maps, `maps -> list of (B, out, H, W)`, and their strides in pixels.

    Several maps go through an FPN, one map through a simple pyramid.
    norm: of an FPN, BatchNorm behind each convolution.
    """
    if len(stages.channels) > 1:
        return FPN(stages.channels, out=out, norm=norm), [float(stride) for stride in stages.strides]
    return SimplePyramid(stages.channels[0], out=out), [stages.strides[0] * scale for scale in (0.25, 0.5, 1.0, 2.0)]


def _normed(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), ChannelNorm(outputs, eps=1e-6)]
