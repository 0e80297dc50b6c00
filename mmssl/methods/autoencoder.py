"""Autoencoder: draw an image again from a short code of it, or of a damaged copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.pixels import Error, pixel_error
from mmssl.losses.sparsity import kl_sparsity
from mmssl.nn.decoder import Decoder
from mmssl.nn.head import Projection
from mmssl.numerics.color import as_unit
from mmssl.transforms.base import OnBatch
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Loss, Method, Objective, Reconstruction, Spaces
from mmssl.views.template import Views


@dataclass(kw_only=True)
class Damage(OnBatch):
    """Damages an image, and shows the whole one after it; without damage just that.

    masked: the share of pixels that is made black. Vincent et al., ICML 2008.
    noise: the deviation of Gaussian noise, of pixels from 0 to 1. Vincent et al., JMLR 2010.
    salt: the share of pixels that is made black or white.
    """

    single = True
    masked: float = 0.0
    noise: float = 0.0
    salt: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.masked < 1 and 0 <= self.salt < 1 and self.noise >= 0):
            raise UserError(
                f"masked is {self.masked}, salt {self.salt}, noise {self.noise}; expected shares below 1, and 0 or more"
            )

    def on_batch(self, batch: Batch) -> Batch:
        whole = as_unit(batch.views["image"][0])
        damaged = [self._damaged(whole)] if self.masked or self.noise or self.salt else []
        batch.views["image"] = [*damaged, whole]
        return batch

    def _damaged(self, x: Tensor) -> Tensor:
        if self.noise:
            x = x + self.noise * torch.randn_like(x)
        drawn = torch.rand_like(x[:, :1])
        x = torch.where(drawn < self.masked, 0.0, x)
        grain = (torch.rand_like(drawn) < 0.5).to(x.dtype)
        return torch.where(torch.rand_like(drawn) < self.salt, grain, x)


class Autoencoder(Objective):
    """Draws the last view's pixels from a code of the first. Hinton & Salakhutdinov, Science 2006.

    code: size of the code, which a linear layer makes of the pooled features.
    start: side of the decoder's first map.
    widths: channels of the decoder's maps, each of twice the side of the one before.
    error: squared (l2) or absolute (l1), of pixels from 0 to 1.
    sparsity: what keeps the code sparse: l1 is the mean size of its units behind a ReLU, kl how far each unit's mean
        over the batch, behind a sigmoid, is from `rate` (Ng, lecture notes CS294A, 2011).
    sparse: weight of the sparsity in the loss.
    rate: mean activity that kl asks of each unit.
    """

    modalities = ("image",)

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        code: int = 128,
        start: int = 7,
        widths: Sequence[int] = (512, 256, 128, 64, 32),
        error: Error = "l2",
        sparsity: Literal["none", "kl", "l1"] = "none",
        sparse: float = 0.01,
        rate: float = 0.05,
    ) -> None:
        super().__init__(encoders)
        if not 0 < rate < 1 or sparse < 0:
            raise UserError(f"rate is {rate} and sparse {sparse}; expected a share between 0 and 1, and 0 or more")
        self.head = Projection(encoders["image"].dim, out=code, norm=False, bias=True)
        self.decoder = Decoder(code, widths=widths, start=start, at_first=0.5)
        self.error, self.sparsity, self.sparse, self.rate = error, sparsity, sparse, rate

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        shown, sound = batch.views["image"][0], as_unit(batch.views["image"][-1])
        present = batch.present("image")
        code = self._code(encoders["image"](shown).pooled)
        apart = dist.mean(pixel_error(self.decoder(code, sound.shape[2:]), sound, error=self.error), present)
        logs, total = {"error": apart.detach()}, apart
        if self.sparsity != "none":
            dense = dist.mean(code.mean(dim=1), present)
            if self.sparsity == "kl":
                dense = kl_sparsity(code, rate=self.rate, present=present)
            total = apart + self.sparse * dense
            logs["sparsity"] = dense.detach()
        return Loss(total, logs, {"image": code.detach()})

    def reconstruct(self, encoders: Mapping[str, Encoder], batch: Batch) -> Reconstruction:
        shown, sound = as_unit(batch.views["image"][0]), as_unit(batch.views["image"][-1])
        return Reconstruction(shown, self.decoder(self._code(encoders["image"](shown).pooled), sound.shape[2:]), sound)

    def _code(self, pooled: Tensor) -> Tensor:
        code = self.head.project(pooled)
        return {"none": code, "kl": code.sigmoid(), "l1": F.relu(code)}[self.sparsity]

    def spaces(self) -> Spaces:
        return {"image": self.head}


class Sparse(Autoencoder):
    """Draws an image from a code, larger than the plain one, of which few units are active. Ng, CS294A, 2011."""

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        code: int = 1024,
        start: int = 7,
        widths: Sequence[int] = (512, 256, 128, 64, 32),
        error: Error = "l2",
        sparsity: Literal["none", "kl", "l1"] = "kl",
        sparse: float = 0.01,
        rate: float = 0.05,
    ) -> None:
        super().__init__(
            encoders, code=code, start=start, widths=widths, error=error, sparsity=sparsity, sparse=sparse, rate=rate
        )


STEPS = [Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0)), Flip()]

method = Method(Views(1, image=STEPS, after=[Damage()]), Autoencoder)
sparse = Method(Views(1, image=STEPS, after=[Damage()]), Sparse)
denoising = Method(Views(1, image=STEPS, after=[Damage(masked=0.25)]), Autoencoder)
