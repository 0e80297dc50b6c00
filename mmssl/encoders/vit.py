"""A small vision transformer whose tokens can be dropped or replaced, as masked methods need."""

from __future__ import annotations

from typing import Literal

from mmssl.encoders.patched import Patched
from mmssl.transforms.image import ImagePreprocess


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


encoder = VisionTransformer
