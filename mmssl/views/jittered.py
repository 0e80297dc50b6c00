"""Two views whose colour is always jittered, without blur: MoCo's, which PCL shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmssl.types import Preprocess
from mmssl.views.pair import Pair
from mmssl.views.single import Chance


class Jittered(Pair):
    """Shows two views whose colour is always jittered, without blur; the options are Pair's. He et al., CVPR 2020."""

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        color_jitter: Chance = 1.0,
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.4),
        blur: Chance = 0.0,
        **rest: Any,
    ) -> None:
        super().__init__(preprocess, crop_scale=crop_scale, color_jitter=color_jitter, jitter=jitter, blur=blur, **rest)


view = Jittered
