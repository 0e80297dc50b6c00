"""One view, with a seed of each sample's own, from which the method draws what it hides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mmssl.types import Batch, Preprocess
from mmssl.views.single import Single


class Seeded(Single):
    """Shows each modality once, and extra["seed"] (B,): so a resumed run hides the same, and so does any process.

    crop_scale, crop_ratio, flip: those of MAE; the rest as Single has it. He et al., CVPR 2022.
    """

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        **rest: Any,
    ) -> None:
        super().__init__(preprocess, crop_scale=crop_scale, crop_ratio=crop_ratio, flip=flip, **rest)

    def on_device(self, batch: Batch) -> Batch:
        batch = super().on_device(batch)
        present = batch.present(next(iter(batch.views)))
        batch.extra["seed"] = torch.randint(2**31, present.shape, device=present.device)
        return batch


view = Seeded
