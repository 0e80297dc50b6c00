"""Two views jittered half as much as SimCLR's, on larger crops: MoCo v2's, which SimSiam shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmssl.types import Preprocess
from mmssl.views.pair import Pair


class Blurred(Pair):
    """Shows two views jittered half as much as Pair's, whose options these are. Chen et al., 2020 (MoCo v2)."""

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
        **rest: Any,
    ) -> None:
        super().__init__(preprocess, crop_scale=crop_scale, jitter=jitter, **rest)


view = Blurred
