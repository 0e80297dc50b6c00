"""From the tokens that an encoder saw to what the others stand for."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.nn.blocks import Blocks
from mmssl.nn.positions import sincos_on
from mmssl.types import Features


class MaskedDecoder(nn.Module):
    """Predicts every patch (B, N, out), float32, from the features of those seen. He et al., CVPR 2022 (MAE).

    A mask token stands where nothing was seen, all get the fixed code of their place, and a transformer of this many
    blocks, width and heads looks at them and at the pooled feature, as theirs looks at the class token.
    """

    def __init__(self, dim: int, *, out: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"the decoder's width {width} must be a multiple of its heads {heads}")
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = Blocks(width, depth=depth, heads=heads)
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, out)
        for linear in (self.embed, self.predict):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, features: Features, seen: Tensor, grid: Sequence[int]) -> Tensor:
        """seen: (B, n), the places on the grid that the features' tokens have."""
        assert features.tokens is not None, "encoders of tokens return tokens"
        tokens = self.embed(torch.cat([features.pooled[:, None], features.tokens], dim=1))  # (B, 1 + n, width)
        width = tokens.shape[2]
        x = self.mask_token.to(tokens.dtype).expand(len(seen), prod(grid), -1)
        x = x.scatter(1, seen[:, :, None].expand(-1, -1, width), tokens[:, 1:])
        x = x + sincos_on(width, tuple(grid), x.device).to(x.dtype)
        x = self.norm(self.blocks(torch.cat([tokens[:, :1], x], dim=1)))[:, 1:]
        return self.predict(x).float()
