"""The towers of L3-Net: four blocks of two convolutions, for images or, with one channel, for spectrograms."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from mmssl.nn.normalize import pixel_normalize
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Encoder, Features


class L3(Encoder):
    """Blocks of two 3x3 convolutions with BatchNorm, halved in between, then the maximum over space.

    Arandjelovic & Zisserman, ICCV 2017 (L3-Net). As a tower for sound, it is the backbone of `spectrogram` with
    in_channels 1.

    image_size: side in pixels of the square that is shown.
    in_channels: of the image.
    widths: channels of each block.
    stride: of the first convolution, 2 as in AVE-Net and AVOL-Net (ECCV 2018), whose map of an image of 224 pixels is
        14 x 14.
    mean, std: per channel, by which the input is normalised; by default ImageNet's for colour.
    """

    modality = "image"

    def __init__(
        self,
        *,
        image_size: int = 224,
        in_channels: int = 3,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        stride: Literal[1, 2] = 1,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.dim = widths[-1]
        self.preprocess = ImagePreprocess(size=image_size)
        self.normalize = pixel_normalize(in_channels, mean, std)
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(pairwise((in_channels, *widths))):
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if number else []
            layers += [*_conv(inputs, outputs, 1 if number else stride), *_conv(outputs, outputs)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Features:
        cells = self.layers(self.normalize(x))  # (B, D, H, W)
        return Features(cells.amax((2, 3)), cells.flatten(2).transpose(1, 2), grid=(cells.shape[2], cells.shape[3]))


def _conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


encoder = L3
