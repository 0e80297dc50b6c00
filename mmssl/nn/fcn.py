"""The head of a fully convolutional network: from an encoder's maps to a value of each pixel."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class FCN(nn.Module):
    """Scores the cells of the last map, adds what the maps before it score, and scales up to the pixels.

    Two 3x3 convolutions with BatchNorm and ReLU, then a 1x1 convolution, score the last map, as He et al., CVPR 2020
    (MoCo) have it; each finer map has a 1x1 convolution of its own, from zero. Long et al., CVPR 2015, whose FCN-8s has
    two such skips.

    channels: of each map, finest first.
    out: values of each pixel.
    width: channels between the convolutions.
    skips: how many maps before the last take part, at most.
    """

    def __init__(self, channels: Sequence[int], out: int, *, width: int = 256, skips: int = 2) -> None:
        super().__init__()
        self.count = 1 + min(skips, len(channels) - 1)
        *finer, last = channels[-self.count :]
        self.last = nn.Sequential(*_conv(last, width), *_conv(width, width), nn.Conv2d(width, out, 1))
        self.finer = nn.ModuleList(nn.Conv2d(size, out, 1) for size in finer)
        for layer in self.finer:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Returns (B, out, H, W) float32 of the pixels of an image of a size (H, W)."""
        *finer, last = maps[-self.count :]
        scores = self.last(last)
        for layer, found in zip(reversed(self.finer), reversed(finer), strict=True):
            scores = _scaled(scores, found.shape[2:]) + layer(found)
        return _scaled(scores.float(), size)


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _scaled(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
