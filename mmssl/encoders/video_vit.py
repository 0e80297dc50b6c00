"""A transformer on tubelets, patches of a video that last a few frames, which attends over space and time at once."""

from __future__ import annotations

from typing import Literal

from mmssl.encoders.patched import Patched
from mmssl.transforms.video import VideoPreprocess


class VideoTransformer(Patched):
    """Tubelets as tokens through pre-norm blocks. Arnab et al., ICCV 2021; Tong et al., NeurIPS 2022 (VideoMAE).

    Fixed positions tell column, row and time.

    variant: the size.
    image_size: side in pixels of the square that is shown.
    frames: how many a clip has.
    fps: frames a second; without it they span the clip.
    patch_size: side of a patch in pixels.
    tubelet: frames of a token.
    """

    modality = "video"

    def __init__(
        self,
        variant: Literal["tiny", "small", "base", "large"] = "tiny",
        *,
        image_size: int = 224,
        frames: int = 16,
        fps: float | None = None,
        patch_size: int = 16,
        tubelet: int = 2,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        positions: Literal["sincos", "learned"] = "sincos",
        pool: Literal["class", "mean"] = "mean",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__(
            variant,
            extent=(frames, image_size, image_size),
            cell=(tubelet, patch_size, patch_size),
            in_channels=3,
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
        self.preprocess = VideoPreprocess(size=image_size, frames=frames, fps=fps)


encoder = VideoTransformer
