"""CMC: what two encoders see of one picture, its lightness and its colour, is to be found by each other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any, ClassVar, cast

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
from mmssl.types import Batch, Encoder, Loss, Method, Objective, Preprocess, Sample, Spaces
from mmssl.views.pair import Pair


class SameCrop(Pair):
    """Shows one crop of a picture to all encoders, in its own colours; the options are Pair's, of one view.

    Tian et al., ECCV 2020.
    """

    fixed_options: ClassVar = ("views",)

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        color_jitter: float = 0.0,
        grayscale: float = 0.0,
        blur: float = 0.0,
        **rest: Any,
    ) -> None:
        options: dict[str, Any] = {
            "crop_scale": crop_scale,
            "color_jitter": color_jitter,
            "grayscale": grayscale,
            "blur": blur,
        }
        super().__init__(preprocess, views=1, **options, **rest)
        sizes = {key: each.size for key, each in self.prepare.items()}
        if len(set(sizes.values())) > 1:
            raise UserError(f"the encoders are shown one crop, but their pictures have different sides: {sizes}")
        self.reads = ("image",)

    def __call__(self, sample: Sample) -> Sample:
        shown = super().__call__(sample)
        return dict.fromkeys(self.preprocess, shown["image"]) if "image" in shown else {}

    def on_device(self, batch: Batch) -> Batch:
        batch = super().on_device(batch)
        batch.views = dict.fromkeys(batch.views, batch.views["image"])
        return batch


class CMC(Objective):
    """Contrasts every two encoders' embeddings of a sample, both ways. Tian et al., ECCV 2020.

    Every encoder whose key is image or image_... takes part; each must see something else of a picture, as `lab` does
    with part lightness and part color. negatives: random rows of the other encoder's memory bank, whose own row is the
    positive; None takes the other samples of the batch. momentum: how much of a row stays when its sample is seen.
    """

    modalities = ("image",)

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
        self.uses = tuple(key for key in encoders if key.partition("_")[0] == "image")
        if len(self.uses) < 2:
            raise UserError(
                f"cmc needs encoders under image and image_..., such as image_ab; found {', '.join(encoders)}"
            )
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


method = Method(SameCrop, CMC)
