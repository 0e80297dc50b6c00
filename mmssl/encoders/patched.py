"""The transformer on patches that images and videos share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.errors import UserError, did_you_mean
from mmssl.nn.blocks import Blocks
from mmssl.nn.normalize import pixel_normalize
from mmssl.nn.positions import sincos
from mmssl.types import Features, Patches, TokenEncoder

VARIANTS = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}  # width, depth, heads
MODES = {2: "bicubic", 3: "trilinear"}  # of interpolation, by the axes of a grid


class Patched(TokenEncoder):
    """Patches as tokens through pre-norm blocks. An encoder's file says of what size, and what it is shown.

    extent: of what it is made for, on the axes of the grid.
    cell: extent of a patch, on the axes of the grid.
    in_channels: of the image.
    width, depth, heads: in place of the variant's.
    mlp_ratio: width of the blocks' hidden layers over that of the tokens.
    drop_path: rate of stochastic depth of the last block; those before it have less.
    positions: fixed sin-cos or learned, for the grid of `extent`, interpolated where an input has another size.
    pool: the class token or the mean of the patches.
    mean, std: per channel, by which the input is normalised; by default ImageNet's for colour.
    """

    def __init__(
        self,
        variant: str,
        *,
        extent: tuple[int, ...],
        cell: tuple[int, ...],
        in_channels: int,
        width: int | None,
        depth: int | None,
        heads: int | None,
        mlp_ratio: float,
        drop_path: float,
        positions: Literal["sincos", "learned"],
        pool: Literal["class", "mean"],
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise UserError(f"there is no variant {variant!r}; {did_you_mean(variant, VARIANTS)}")
        width, depth, heads = (a or b for a, b in zip((width, depth, heads), VARIANTS[variant], strict=True))
        if width % heads:
            raise UserError(f"width {width} must be a multiple of heads {heads}")
        self.dim = width
        self.normalize = pixel_normalize(in_channels, mean, std)
        convolution: Any = nn.Conv2d if len(cell) == 2 else nn.Conv3d
        self.patch = convolution(in_channels, width, cell, cell)
        nn.init.xavier_uniform_(self.patch.weight.view(width, -1))
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02) if pool == "class" else None
        grid = _divided(extent, cell)
        self.positions: Tensor
        if positions == "learned":
            self.positions = nn.Parameter(torch.randn(1, width, *grid) * 0.02)
        else:
            self.register_buffer("positions", sincos(width, grid).T.reshape(1, width, *grid), persistent=False)
        self.blocks = Blocks(width, depth=depth, heads=heads, mlp_ratio=mlp_ratio, drop_path=drop_path)
        self.norm = nn.LayerNorm(width)

    @property
    def cell(self) -> tuple[int, ...]:
        return tuple(self.patch.kernel_size)

    @property
    def patch_dim(self) -> int:
        return int(self.patch.weight[0].numel())

    def patches(self, x: Tensor) -> Patches:
        """Cuts what is shown; a patch's numbers are laid out channel by channel, as the weights are."""
        grid, axes = _divided(x.shape[2:], self.cell), range(2, 2 * x.ndim - 2, 2)
        split = [side for both in zip(grid, self.cell, strict=True) for side in both]
        cells = self.normalize(x).reshape(*x.shape[:2], *split)  # (B, C, H, h, W, w)
        cells = cells.permute(0, *axes, 1, *(axis + 1 for axis in axes))  # (B, H, W, C, h, w)
        return Patches(cells.flatten(len(grid) + 1).flatten(1, -2), grid)

    def joined(self, patches: Patches) -> Tensor:
        count, grid = len(patches.grid), patches.grid
        cells = patches.values.unflatten(2, (-1, *self.cell)).unflatten(1, grid)  # (B, H, W, C, h, w)
        axes = [axis for n in range(count) for axis in (1 + n, 2 + count + n)]
        x = cells.permute(0, 1 + count, *axes)  # (B, C, H, h, W, w)
        return self.normalize.undo(x.reshape(*x.shape[:2], *(a * b for a, b in zip(grid, self.cell, strict=True))))

    def tokenize(self, patches: Patches, *, mask: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
        tokens = F.linear(patches.values, self.patch.weight.flatten(1), self.patch.bias)
        if mask is not None and mask_token is not None:
            tokens = torch.where(mask[:, :, None], mask_token.to(tokens.dtype), tokens)
        positions = self.positions
        if positions.shape[2:] != patches.grid:
            mode = MODES[len(patches.grid)]
            positions = F.interpolate(positions, patches.grid, mode=mode, align_corners=False)
        return tokens + positions.flatten(2).mT

    def encode_tokens(self, tokens: Tensor) -> Features:
        """Encodes any subset of tokens (B, n, D); the features' tokens are in the same order, without the class."""
        if self.class_token is None:
            tokens = self.norm(self.blocks(tokens))
            return Features(tokens.mean(1), tokens)
        tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1).to(tokens.dtype), tokens], dim=1)
        tokens = self.norm(self.blocks(tokens))
        return Features(tokens[:, 0], tokens[:, 1:])


def _divided(extent: Sequence[int], cell: Sequence[int]) -> tuple[int, ...]:
    """Returns how many cells fill the extent along each axis; UserError where they do not."""
    if any(side % part for side, part in zip(extent, cell, strict=True)):
        sides, parts = (" x ".join(map(str, sizes)) for sizes in (extent, cell))
        raise UserError(f"{sides} do not divide into patches of {parts}; change image_size, frames or the patch")
    return tuple(side // part for side, part in zip(extent, cell, strict=True))
