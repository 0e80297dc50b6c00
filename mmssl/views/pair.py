"""Two views of a sample, each drawn on its own: what contrastive and self-distilling methods compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmssl.types import Preprocess
from mmssl.views.single import Chance, Single


class Pair(Single):
    """Shows a sample twice, or `views` times: cropped, mirrored, recoloured and blurred pictures as SimCLR has them.

    The options, and those of sound and points, are Single's with other defaults; for pictures of 32 pixels papers
    leave blur away and halve the jitter, which is that of strength 1 here. Chen et al., ICML 2020.
    """

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        views: int = 2,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        color_jitter: Chance = 0.8,
        jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2),
        grayscale: Chance = 0.2,
        blur: Chance = 0.5,
        **rest: Any,
    ) -> None:
        super().__init__(
            preprocess,
            views=views,
            crop_scale=crop_scale,
            crop_ratio=crop_ratio,
            flip=flip,
            color_jitter=color_jitter,
            jitter=jitter,
            grayscale=grayscale,
            blur=blur,
            **rest,
        )


view = Pair
