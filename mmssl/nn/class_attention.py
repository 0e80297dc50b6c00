"""What the class token of a vision transformer looks at, and the foreground that it tells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.numerics.constants import constant
from mmssl.types import Encoder, Features

SMALL = 2  # cells of a part of the foreground that is left out
BLUR = (7, 0.6)  # cells and deviation of the filter before


class ClassAttention:
    """Reads the class token's attention in the pass that makes an encoder's features: mmssl's vit, and timm's ViTs.

    The encoder is not kept: a copy of it is read by the same object. Raises UserError for one without a class token.
    Caron et al., ICCV 2021 (DINO).
    """

    def __init__(self, encoder: Encoder) -> None:
        found = [name for name, _ in encoder.named_modules() if name.endswith(".qkv")]
        model: Any = getattr(encoder, "model", encoder)
        has_class = any(getattr(model, name, None) is not None for name in ("class_token", "cls_token"))
        if not found or not has_class:
            raise UserError(
                "the foreground is read of a class token's attention, and this encoder has none; choose a ViT with one"
            )
        self.name = found[-1]

    def __call__(self, encoder: Encoder, x: Tensor) -> tuple[Features, Tensor]:
        """Returns the features of images, and the attention (B, N) to each patch, the mean over heads, float32."""
        caught: list[Tensor] = []
        part = encoder.get_submodule(self.name)
        hook = part.register_forward_hook(lambda _, __, out: caught.append(out))
        try:
            features: Features = encoder.forward(x)
        finally:
            hook.remove()
        return features, self._attention(encoder.get_submodule(self.name.rpartition(".")[0]), caught[0], features)

    def _attention(self, block: nn.Module, qkv: Tensor, features: Features) -> Tensor:
        assert features.tokens is not None
        heads: Any = getattr(block, "heads", None) or getattr(block, "num_heads", None)
        q, k, _ = qkv.float().unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, N, D / H)
        for name in ("q_norm", "k_norm"):
            change = getattr(block, name, None)
            if change is not None:
                q, k = (change(q), k) if name == "q_norm" else (q, change(k))
        scores = (q[:, :, :1] @ k.mT)[:, :, 0] / q.shape[3] ** 0.5  # (B, H, N), the class token is the first
        return scores.softmax(dim=2).mean(dim=1)[:, -features.tokens.shape[1] :]


def foreground(attention: Tensor, grid: tuple[int, ...], *, mass: float) -> Tensor:
    """Returns which cells hold most of the attention (B, N), bool: those that make `mass` of it together.

    It is blurred before, and parts of one or two cells are left out. Ziegler & Asano, CVPR 2022 (Leopart).
    """
    size, deviation = BLUR
    offsets = [number - size // 2 for number in range(size)]
    line = constant(tuple(-0.5 * (o / deviation) ** 2 for o in offsets), attention.device).softmax(dim=0)
    reach = [min(size // 2, side - 1) for side in grid]  # mirrored no further than the grid goes
    line_y, line_x = (
        line[size // 2 - r : size // 2 + r + 1] / line[size // 2 - r : size // 2 + r + 1].sum() for r in reach
    )
    maps = attention.float().unflatten(1, grid)[:, None]
    with torch.autocast(attention.device.type, enabled=False):
        padded = F.pad(maps, (reach[1], reach[1], reach[0], reach[0]), mode="reflect")
        blurred = F.conv2d(F.conv2d(padded, line_y[None, None, :, None]), line_x[None, None, None])
        flat = blurred.flatten(1)
        value, index = flat.sort(dim=1)
        least = value.cumsum(dim=1) <= (1 - mass) * value.sum(dim=1, keepdim=True)
        kept = torch.ones_like(flat).scatter(1, index, (~least).float()).unflatten(1, grid)
        return (kept.bool() & ~_small(kept[:, None])[:, 0]).flatten(1)


def _small(mask: Tensor) -> Tensor:
    """Returns which cells of masks (B, 1, H, W) belong to a part of one or two of them, corners joining."""
    neighbors = mask * _around(mask)
    theirs = _around(neighbors)
    return (mask > 0) & ((neighbors == 0) | ((neighbors == 1) & (theirs == 1)))


def _around(x: Tensor) -> Tensor:
    """Returns the sum over the eight cells around each."""
    return F.conv2d(x, x.new_ones(1, 1, 3, 3), padding=1) - x
