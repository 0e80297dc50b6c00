"""MAE's one view, with a seed of each sample's own, from which the method draws what it masks. He et al., CVPR 2022."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mmssl.transforms.base import OnBatch
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch
from mmssl.views.template import Views


@dataclass(kw_only=True)
class Seed(OnBatch):
    """Adds extra["seed"] (B,): so a resumed run masks the same, and so does any process."""

    def on_batch(self, batch: Batch) -> Batch:
        present = batch.present(next(iter(batch.views)))
        batch.extra["seed"] = torch.randint(2**31, present.shape, device=present.device)
        return batch


view = Views(1, fixed=True, image=[Crop(scale=(0.2, 1.0)), Flip()], after=[Seed()])
