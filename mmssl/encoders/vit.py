"""A small vision transformer whose tokens can be dropped or replaced, as masked methods need."""

from __future__ import annotations

import math
import re
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.encoders.patched import Patched
from mmssl.errors import UserError
from mmssl.nn.positions import sincos
from mmssl.transforms.image import ImagePreprocess

# timm's names of parts, and ours
PARTS = {
    r"^cls_token$": "class_token",
    r"^patch_embed\.proj\.": "patch.",
    r"^blocks\.": "blocks.layers.",
    r"\.attn\.": ".attention.",
    r"\.mlp\.fc1\.": ".mlp.0.",
    r"\.mlp\.fc2\.": ".mlp.2.",
}


class VisionTransformer(Patched):
    """Patches as tokens through pre-norm blocks. Dosovitskiy et al., ICLR 2021.

    variant: the size.
    image_size: side in pixels of the square that is shown.
    patch_size: side of a patch in pixels.
    """

    modality = "image"

    def __init__(
        self,
        variant: Literal["tiny", "small", "base", "large"] = "tiny",
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
        super().__init__(
            variant,
            extent=(image_size, image_size),
            cell=(patch_size, patch_size),
            in_channels=in_channels,
            width=width,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
            positions=positions,
            pool=pool,
            mean=mean,
            std=std,
        )
        self.preprocess = ImagePreprocess(size=image_size)

    def published(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Takes timm's names too; the class token's place becomes part of it, and other grids are interpolated."""
        codes, found = weights.get("pos_embed"), {}
        for key, value in weights.items():
            for theirs, ours in PARTS.items():
                key = re.sub(theirs, ours, key)
            found[key] = value
        if codes is None or "class_token" not in found:
            return found
        side = math.isqrt(codes.shape[1] - 1)
        if side**2 != codes.shape[1] - 1 or codes.shape[2] != self.dim:
            return found
        del found["pos_embed"]
        found["class_token"] = found["class_token"] + codes[:, :1]
        codes = codes[:, 1:].mT.unflatten(2, (side, side))
        if "positions" in self.state_dict():
            fits = codes.shape == self.positions.shape
            size = self.positions.shape[2:]
            found["positions"] = codes if fits else F.interpolate(codes, size, mode="bicubic", align_corners=False)
        elif not torch.allclose(codes.flatten(2)[0].mT, sincos(self.dim, (side, side)), atol=1e-4):
            raise UserError("the positions of these weights were learned; say positions: learned of the encoder")
        return found


encoder = VisionTransformer
