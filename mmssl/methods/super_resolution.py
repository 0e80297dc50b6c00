"""Super-resolution: draw an image's fine detail from a small copy of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.pixels import Error, pixel_error
from mmssl.nn.adversary import Adversary
from mmssl.nn.decoder import Decoder
from mmssl.numerics.color import as_unit
from mmssl.transforms.base import OnBatch
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Features, Loss, Method, Objective, Reconstruction
from mmssl.views.template import Views


@dataclass(kw_only=True)
class Shrink(OnBatch):
    """Shows an image shrunk by a factor, and the whole one after it.

    factor: by which its side is divided.
    enlarge: whether the small one is blown up to the old size again, so that any encoder reads it, and things are as
        large as the encoder will find them later; without it the encoder sees the small image.
    """

    single = True
    factor: int = 4
    enlarge: bool = True

    def check(self, preprocess: Mapping[str, Any]) -> None:
        size = preprocess["image"].size
        if self.factor < 2 or size % self.factor:
            raise UserError(f"images of {size} pixels cannot be shrunk by {self.factor}; expected a divisor above 1")

    def on_batch(self, batch: Batch) -> Batch:
        whole = as_unit(batch.views["image"][0])
        small = F.interpolate(whole, scale_factor=1 / self.factor, mode="bicubic", antialias=True).clamp(0, 1)
        if self.enlarge:
            small = F.interpolate(small, whole.shape[2:], mode="bicubic").clamp(0, 1)
        batch.views["image"] = [small, whole]
        return batch


class SuperResolution(Objective):
    """Draws, from the encoder's grid, what a small image lacks of the whole one. Ledig et al., CVPR 2017 (SRGAN).

    Only the difference is predicted (Kim et al., CVPR 2016), since the grid of an encoder that shrinks has not the
    pixels that SRGAN's keeps.

    error: squared (l2) or absolute (l1), of pixels from 0 to 1.
    adversarial: weight of being found out by a discriminator, 0.001 in the paper, 0 for none (SRResNet).
    judges: channels of the discriminator's layers.
    widths: channels of the decoder's stages, each of which doubles the side of the encoder's grid.
    """

    modalities = ("image",)

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        error: Error = "l2",
        adversarial: float = 0.0,
        judges: Sequence[int] = (64, 128, 256, 512),
        widths: Sequence[int] = (512, 256, 128, 64, 32),
    ) -> None:
        super().__init__(encoders)
        if adversarial < 0:
            raise UserError(f"adversarial is {adversarial}; expected 0 or more")
        self.decoder = Decoder(encoders["image"].dim, widths=widths)
        self.adversary = Adversary(widths=judges) if adversarial else None
        self.error, self.adversarial = error, adversarial

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        small, whole = (as_unit(view) for view in batch.views["image"])
        present, size = batch.present("image"), whole.shape[2:]
        features = encoders["image"](small)
        blurred, drawn = self._drawn(small, features, size)
        total = dist.mean(pixel_error(drawn, whole, error=self.error), present)
        gained = 1 - total.detach() / dist.mean(pixel_error(blurred, whole, error=self.error), present).clamp(min=1e-9)
        logs = {"error": total.detach(), "gained": gained}
        if self.adversary is not None:
            deceit, mistakes = self.adversary.losses(drawn, whole)
            fooling, judging = dist.mean(deceit, present), dist.mean(mistakes, present)
            total = total + self.adversarial * fooling + judging
            logs |= {"fooling": fooling.detach(), "judging": judging.detach()}
        return Loss(total, logs, {"image": features.pooled.detach()})

    def _drawn(self, small: Tensor, features: Features, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns small images as large as the whole ones, and what is drawn."""
        same = tuple(small.shape[2:]) == tuple(size)
        blurred = small if same else F.interpolate(small, tuple(size), mode="bicubic")
        return blurred, blurred + self.decoder(features, size)

    def reconstruct(self, encoders: Mapping[str, Encoder], batch: Batch) -> Reconstruction:
        small, whole = map(as_unit, batch.views["image"])
        return Reconstruction(*self._drawn(small, encoders["image"](small), whole.shape[2:]), whole)


STEPS = [Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0)), Flip()]

method = Method(Views(1, image=STEPS, after=[Shrink()]), SuperResolution)
