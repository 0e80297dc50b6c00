"""CMC: what two encoders see of one image, its lightness and its colour, is to be found by each other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.contrast import in_batch
from mmssl.losses.infonce import info_nce
from mmssl.losses.nce import nce
from mmssl.nn.head import Projection
from mmssl.objectives.bank import Bank
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Loss, Method, Objective, Spaces, reading
from mmssl.views.template import Views


class CMC(Objective):
    """Contrasts every two encoders' embeddings of a sample, both ways. Tian et al., ECCV 2020.

    Every encoder of images takes part; each must see something else of an image, as `lab` does with part lightness
    and part color.

    embed_dim: size of the embeddings.
    temperature: of the softmax.
    negatives: random rows of the other encoder's memory bank, whose own row is the positive; null takes the other
        samples of the batch.
    momentum: share of a row of the memory bank that stays when its sample is seen.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        temperature: float = 0.07,
        negatives: int | None = 16384,
        momentum: float = 0.5,
    ) -> None:
        super().__init__(encoders)
        self.uses = tuple(key for key, encoder in encoders.items() if encoder.modality == "image")
        if len(self.uses) < 2:
            raise UserError(f"cmc needs two encoders of images; the run has {reading(encoders)}")
        self.heads = nn.ModuleDict({key: Projection(encoders[key].dim, out=embed_dim, bias=True) for key in self.uses})
        banks = {} if negatives is None else {key: Bank(embed_dim, momentum=momentum) for key in self.uses}
        self.banks = nn.ModuleDict(banks)
        self.temperature, self.negatives = temperature, negatives

    def bank(self, key: str) -> Bank:
        """Returns an encoder's memory bank."""
        return cast("Bank", self.banks[key])

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present = torch.stack([batch.present(key) for key in self.uses]).all(dim=0)
        embedded = {
            key: F.normalize(self.head(key).project(encoders[key](batch.views[key][0]).pooled), dim=1)
            for key in self.uses
        }
        losses = {
            f"{a}-{b}": dist.mean(self._find(embedded[a], b, embedded, batch, present), present)
            for a, b in permutations(self.uses, 2)
        }
        for key in self.banks:
            self.bank(key).note(batch.extra["index"], embedded[key], present)
        logs = {f"loss_{name}": value.detach() for name, value in losses.items()}
        embeddings = {key: x.detach() for key, x in embedded.items()}
        return Loss(torch.stack(list(losses.values())).sum(), logs, embeddings)

    def _find(self, queries: Tensor, key: str, embedded: Mapping[str, Tensor], batch: Batch, present: Tensor) -> Tensor:
        """Returns the losses (B,) of finding each query's sample among what another encoder makes of samples."""
        if self.negatives is None:
            return info_nce(in_batch(queries, embedded[key], scale=1 / self.temperature, present=present))
        options: dict[str, Any] = {"noise": self.negatives, "temperature": self.temperature, "present": present}
        return nce(*self.bank(key).scores(queries, batch.extra["index"], **options))

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        for key in self.banks:
            self.bank(key).write()

    def head(self, key: str) -> Projection:
        """Returns an encoder's projection."""
        return cast("Projection", self.heads[key])

    def spaces(self) -> Spaces:
        return {key: self.head(key) for key in self.uses}


method = Method(Views(1, fixed=True, image=[Crop(scale=(0.2, 1.0)), Flip()]), CMC)
