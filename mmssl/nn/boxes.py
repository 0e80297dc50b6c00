"""What a detector puts on an encoder: a pyramid of its maps, and a head on what RoIAlign cuts of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.ops import roi_align

from mmssl.nn.pyramid import pyramid
from mmssl.nn.stages import Stages
from mmssl.types import Encoder


class BoxNetwork(nn.Module):
    """Makes features (N, hidden[-1]) of boxes on the levels of a pyramid, each level by the same head.

    The pyramid and the head are those of a Faster R-CNN, and named as torchvision names the head's parts. Lin et al.,
    CVPR 2017 (FPN); He et al., ICCV 2017 (RoIAlign).

    encoder: of images, whose maps are read; it is not kept.
    width: channels of each level.
    convs: 3x3 convolutions of the head, with BatchNorm.
    hidden: widths of the linear layers behind them.
    size: cells along each side of what RoIAlign cuts.
    strides: pixels between the cells of each level.
    """

    def __init__(
        self, encoder: Encoder, *, width: int = 256, convs: int = 4, hidden: Sequence[int] = (1024,), size: int = 7
    ) -> None:
        super().__init__()
        self.stages, self.size = Stages(encoder), size
        self.pyramid, self.strides = pyramid(self.stages, out=width, norm=True)
        self.head = FastRCNNConvFCHead((width, size, size), [width] * convs, list(hidden), norm_layer=nn.BatchNorm2d)

    def levels(self, encoder: Encoder, images: Tensor) -> list[Tensor]:
        """Returns the levels (B, width, H, W) of images, finest first."""
        found: list[Tensor] = self.pyramid(self.stages(encoder, images)[1])
        return found

    def forward(self, levels: Sequence[Tensor], number: int | Tensor, boxes: Tensor, sample: Tensor) -> Tensor:
        """Returns features of boxes (N, 4), in pixels, of the samples (N,).

        number: of the level that all of them are cut of, or of each of them (N,).
        """
        rows = torch.cat([sample[:, None].to(boxes.dtype), boxes], dim=1)
        if isinstance(number, int):
            cut = self._cut(levels, number, rows)
        else:  # every level is cut, and one of them kept, so that no shape depends on values
            cut = self._cut(levels, 0, rows)
            for other in range(1, len(levels)):
                cut = torch.where((number == other)[:, None, None, None], self._cut(levels, other, rows), cut)
        features: Tensor = self.head(cut)
        return features

    def _cut(self, levels: Sequence[Tensor], number: int, rows: Tensor) -> Tensor:
        """Returns what RoIAlign cuts of a level: (N, width, size, size)."""
        scale = 1 / self.strides[number]
        cut: Tensor = roi_align(levels[number].float(), rows, self.size, spatial_scale=scale, aligned=True)
        return cut
