"""A small residual network for images of 32 to 128 pixels, quick to train on a few CPU cores."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.nn.normalize import pixel_normalize
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Encoder, Features


class ConvNet(Encoder):
    """Residual stages on a strided stem. He et al., CVPR 2016; average-pooled short cuts: He et al., CVPR 2019.

    image_size: side in pixels of the square that is shown.
    in_channels: of the image.
    widths: channels of each stage.
    depths: blocks of each stage.
    strides: how much each stage shrinks the map; by default every stage but the first halves it. Strides of 1 keep the
        map fine for tasks that match cells.
    stem_stride: how much the stem shrinks the image, 4 for 64 pixels and more, 2 or 1 below.
    pool: how the map becomes one vector.
    mean, std: per channel, by which the input is normalised; by default ImageNet's for colour.
    """

    modality = "image"

    def __init__(
        self,
        *,
        image_size: int = 64,
        in_channels: int = 3,
        widths: tuple[int, ...] = (32, 64, 128, 256),
        depths: tuple[int, ...] = (1, 1, 1, 1),
        strides: tuple[int, ...] | None = None,
        stem_stride: Literal[1, 2, 4] = 4,
        pool: Literal["mean", "max"] = "mean",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        strides = (1, *[2] * (len(widths) - 1)) if strides is None else strides
        if not len(widths) == len(depths) == len(strides) or not widths:
            counts = f"{len(widths)} widths, {len(depths)} depths and {len(strides)} strides"
            raise UserError(f"convnet has {counts}; give one of each per stage")
        self.dim = widths[-1]
        self.pool = pool
        self.preprocess = ImagePreprocess(size=image_size)
        self.normalize = pixel_normalize(in_channels, mean, std)
        self.stem = _stem(in_channels, widths[0], stem_stride)
        blocks = []
        for stage, (inputs, outputs) in enumerate(pairwise((widths[0], *widths))):
            blocks += [Residual(inputs, outputs, stride=strides[stage])]
            blocks += [Residual(outputs, outputs) for _ in range(depths[stage] - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Features:
        x = self.normalize(x).contiguous(memory_format=torch.channels_last)
        x = self.blocks(self.stem(x))  # (B, D, H, W)
        pooled = x.mean((2, 3)) if self.pool == "mean" else x.amax((2, 3))
        return Features(pooled, x.flatten(2).transpose(1, 2), grid=(x.shape[2], x.shape[3]))


class Residual(nn.Module):
    """Two 3x3 convolutions around a short cut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_conv(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *_conv(outputs, outputs, 3)
        )
        short: list[nn.Module] = [nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)] if stride > 1 else []
        short += _conv(inputs, outputs, 1) if inputs != outputs else []
        self.short = nn.Sequential(*short)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.branch(x) + self.short(x))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(outputs)]


def _stem(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """One or, to shrink four times, two 3x3 convolutions."""
    if stride < 4:
        return nn.Sequential(*_conv(inputs, outputs, 3, stride), nn.ReLU(inplace=True))
    half = outputs // 2
    first = [*_conv(inputs, half, 3, 2), nn.ReLU(inplace=True)]
    return nn.Sequential(*first, *_conv(half, outputs, 3, 2), nn.ReLU(inplace=True))


encoder = ConvNet
