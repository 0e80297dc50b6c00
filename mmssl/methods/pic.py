"""PIC: classify each training sample as a class of its own, by cosine with a weight that is learnt for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import torch
from torch.nn import functional as F

from mmssl import dist
from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce
from mmssl.nn.head import Projection
from mmssl.objectives.bank import SampleRows
from mmssl.objectives.multi_view import MultiView, pooled_views
from mmssl.transforms.color import Blur, ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Loss, Method, Spaces
from mmssl.views.template import Views


class PIC(MultiView):
    """Cosine softmax over all training samples, of every view that is shown. Cao et al., NeurIPS 2020.

    All samples are classes at every step; the paper's window over the data, within which a sample comes back soon, and
    its sparser sampling of classes are left out.

    embed_dim: size of the projection.
    hidden: widths of the projector's hidden layers; by default one as wide as the features.
    temperature: of the softmax.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        hidden: Sequence[int] | None = None,
        temperature: float = 0.2,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder)
        layers = (self.dim,) if hidden is None else hidden
        self.head = Projection(self.dim, out=embed_dim, hidden=layers, norm=False, bias=True)
        self.classes = SampleRows(embed_dim)
        self.temperature = temperature

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        views, present, index = self.views(batch, least=1), self.present(batch), batch.extra["index"]
        pooled = pooled_views(encoders[self.key], views, len(present))
        embedded = [F.normalize(self.head.project(x), dim=1) for x in pooled]
        classes = F.normalize(self.classes.rows.float(), dim=1)
        contrasts = [Contrast(x, classes, 1 / self.temperature, positives=index) for x in embedded]
        losses = torch.stack([info_nce(contrast) for contrast in contrasts])
        correct = contrasts[0].correct().float().masked_fill(~present, torch.nan)
        return Loss(
            dist.mean(losses.mean(dim=0), present),
            {"accuracy": correct.nanmean(), "chance_loss": torch.tensor(log(len(self.classes.rows)))},
            {self.key: embedded[0].detach()},
            {"correct": correct},
        )

    def spaces(self) -> Spaces:
        return {self.key: self.head}


method = Method(Views(1, image=[Crop(), Flip(), ColorJitter(), Grayscale(), Blur()]), PIC)
