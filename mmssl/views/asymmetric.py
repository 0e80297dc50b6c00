"""Two views that are changed differently: the first always blurred, the second sometimes solarized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmssl.types import Preprocess
from mmssl.views.pair import Pair
from mmssl.views.single import Chance


class Asymmetric(Pair):
    """Shows a sample twice as BYOL does, by probabilities of each view; the options are Pair's.

    Grill et al., NeurIPS 2020; used since by Barlow Twins, MoBY and others.
    """

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1),
        blur: Chance = (1.0, 0.1),
        solarize: Chance = (0.0, 0.2),
        **rest: Any,
    ) -> None:
        super().__init__(preprocess, jitter=jitter, blur=blur, solarize=solarize, **rest)


view = Asymmetric
