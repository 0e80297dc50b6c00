"""Convolutions that name each cell of an image by one of this many codes: the tokenizer of masked image models."""

from __future__ import annotations

from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.losses.logit_laplace import inside
from mmssl.nn.bottleneck import Bottleneck, conv
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Encoder, Features


class Codes(Encoder):
    """Its tokens are logits over the codes, its pooled feature is how often each is expected. Ramesh et al., ICML 2021.

    The encoder of DALL-E's discrete VAE, which `dvae` trains.

    image_size: side in pixels of the square that is shown.
    codes: how many, D.
    width: channels of the first group.
    groups: of blocks, each twice as wide as the one before and half as fine.
    depth: blocks of each group.
    """

    modality = "image"

    def __init__(
        self, *, image_size: int = 256, codes: int = 8192, width: int = 256, groups: int = 4, depth: int = 2
    ) -> None:
        super().__init__()
        if groups < 1 or depth < 1:
            raise UserError(f"codes has {groups} groups of {depth} blocks; expected at least one of each")
        self.dim = codes
        self.preprocess = ImagePreprocess(size=image_size)
        layers: list[nn.Module] = [conv(3, width, 7)]
        inputs = width
        for group in range(groups):
            layers += [nn.MaxPool2d(2)] if group else []
            for _ in range(depth):
                outputs = width * 2**group
                layers += [Bottleneck(inputs, outputs, kernels=(3, 3, 3, 1), layers=groups * depth)]
                inputs = outputs
        self.layers = nn.Sequential(*layers, nn.ReLU(), conv(inputs, codes, 1))

    def forward(self, x: Tensor) -> Features:
        x = x.float() / 255 if not x.is_floating_point() else x
        logits = self.layers(inside(x))  # (B, K, H, W)
        tokens = logits.flatten(2).mT
        return Features(tokens.softmax(dim=2).mean(dim=1), tokens, grid=tuple(logits.shape[2:]))


encoder = Codes
