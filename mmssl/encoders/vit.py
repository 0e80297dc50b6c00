"""A small vision transformer whose tokens can be dropped or replaced, as masked methods need."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.errors import UserError, did_you_mean
from mmssl.nn.blocks import Blocks
from mmssl.nn.normalize import pixel_normalize
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Features, TokenEncoder

VARIANTS = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}  # width, depth, heads


class VisionTransformer(TokenEncoder):
    """Patches as tokens through pre-norm blocks. Dosovitskiy et al., ICLR 2021.

    variant: tiny, small or base, which width, depth and heads override. positions: fixed sin-cos or learned,
    for the grid of image_size, interpolated where a picture has another size. pool: the class token or the
    mean of the patches. mean, std: per channel, ImageNet's for colour.
    """

    modality = "image"

    def __init__(
        self,
        variant: str = "tiny",
        *,
        image_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        positions: Literal["sincos", "learned"] = "sincos",
        pool: Literal["class", "mean"] = "class",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise UserError(f"vit has no variant {variant!r}; {did_you_mean(variant, VARIANTS)}")
        if image_size % patch_size:
            raise UserError(f"vit: image_size {image_size} is no multiple of patch_size {patch_size}")
        width, depth, heads = (a or b for a, b in zip((width, depth, heads), VARIANTS[variant], strict=True))
        if width % heads or width % 4:
            raise UserError(f"vit: width {width} must be a multiple of 4 and of heads {heads}")
        self.dim = width
        self.preprocess = ImagePreprocess(size=image_size)
        self.normalize = pixel_normalize(in_channels, mean, std)
        self.patch = nn.Conv2d(in_channels, width, patch_size, patch_size)
        nn.init.xavier_uniform_(self.patch.weight.view(width, -1))
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02) if pool == "class" else None
        side = image_size // patch_size
        self.positions: Tensor
        if positions == "learned":
            self.positions = nn.Parameter(torch.randn(1, width, side, side) * 0.02)
        else:
            self.register_buffer("positions", sincos(width, side), persistent=False)
        self.blocks = Blocks(width, depth=depth, heads=heads, mlp_ratio=mlp_ratio, drop_path=drop_path)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Features:
        size = self.patch.kernel_size[0]
        features = self.encode_tokens(self.tokenize(x))
        features.grid = (x.shape[2] // size, x.shape[3] // size)
        return features

    def tokenize(self, x: Tensor) -> Tensor:
        """Returns position-coded patches (B, H * W, D) of pictures whose sides are multiples of the patch."""
        size = self.patch.kernel_size[0]
        if x.shape[2] % size or x.shape[3] % size:
            raise UserError(f"vit: {x.shape[2]} x {x.shape[3]} pixels do not divide into patches of {size}")
        x = self.patch(self.normalize(x))  # (B, D, H, W)
        positions = self.positions
        if positions.shape[2:] != x.shape[2:]:
            positions = F.interpolate(positions, x.shape[2:], mode="bicubic", align_corners=False)
        return (x + positions).flatten(2).transpose(1, 2)

    def encode_tokens(self, tokens: Tensor) -> Features:
        """Encodes any subset of tokens (B, n, D); the features' tokens are in the same order, without the class."""
        if self.class_token is None:
            tokens = self.norm(self.blocks(tokens))
            return Features(tokens.mean(1), tokens)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        tokens = self.norm(self.blocks(tokens))
        return Features(tokens[:, 0], tokens[:, 1:])


def sincos(dim: int, side: int) -> Tensor:
    """Returns the fixed two-dimensional position code (1, D, side, side) of MAE. He et al., CVPR 2022."""
    rates = 10000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * rates  # (side, D / 4)
    line = torch.cat([angles.sin(), angles.cos()], dim=1).T  # (D / 2, side)
    across, down = line[:, None, :].expand(-1, side, -1), line[:, :, None].expand(-1, -1, side)
    return torch.cat([across, down])[None].float()


encoder = VisionTransformer
