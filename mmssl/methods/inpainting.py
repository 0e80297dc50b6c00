"""Inpainting: draw what was cut out of an image from what is left around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.pixels import Error, pixel_error
from mmssl.nn.adversary import Adversary
from mmssl.nn.decoder import Decoder
from mmssl.nn.normalize import IMAGENET_MEAN
from mmssl.numerics.color import as_unit
from mmssl.numerics.constants import constant
from mmssl.transforms.base import OnBatch
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Loss, Method, Objective, Reconstruction
from mmssl.views.template import Views


@dataclass(kw_only=True)
class Holes(OnBatch):
    """Shows an image with holes of the mean colour, the whole one after it, and `holes` (B, 1, H, W), 1 in them.

    blocks: this many squares at random places, which may overlap; 0 is one in the middle.
    hole: the side of that one as a share of the image's; several squares have at most its area together.
    """

    single = True
    blocks: int = 5
    hole: float = 0.5

    def __post_init__(self) -> None:
        if self.blocks < 0 or not 0 < self.hole < 1:
            raise UserError(
                f"blocks is {self.blocks} and hole {self.hole}; expected 0 or more, and a share between 0 and 1"
            )

    def on_batch(self, batch: Batch) -> Batch:
        whole = as_unit(batch.views["image"][0])
        holes = self._holes(whole)
        mean = constant(IMAGENET_MEAN, whole.device)[:, None, None]
        batch.views["image"] = [torch.where(holes > 0, mean, whole), whole]
        batch.extra["holes"] = holes
        return batch

    def _holes(self, x: Tensor) -> Tensor:
        """Draws the holes (B, 1, H, W), 1 within and 0 elsewhere."""
        size, count = x.shape[-1], max(1, self.blocks)
        side = max(1, round(size * self.hole / count**0.5))
        corners = torch.randint(size - side + 1, (2, len(x), count, 1), device=x.device)
        if not self.blocks:
            corners = torch.full_like(corners, (size - side) // 2)
        line = torch.arange(size, device=x.device)
        down, across = (line >= corners) & (line < corners + side)  # each (B, count, size)
        return (down[..., :, None] & across[..., None, :]).any(dim=1, keepdim=True).to(x.dtype)


class Inpainting(Objective):
    """Draws an image's holes from the encoder's grid. Pathak et al., CVPR 2016 (context encoders).

    overlap: pixels around each hole that are also predicted, so that what fills it fits.
    border: weight of an error in the overlap.
    error: squared (l2) or absolute (l1), of pixels from 0 to 1.
    adversarial: weight of being found out by a discriminator, 0.001 in the paper for fine images; 0, its choice for
        features, has none.
    judges: channels of the discriminator's layers.
    widths: channels of the decoder's stages, each of which doubles the side of the encoder's grid.
    """

    modalities = ("image",)

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        overlap: int = 7,
        border: float = 10.0,
        error: Error = "l2",
        adversarial: float = 0.0,
        judges: Sequence[int] = (64, 128, 256, 512),
        widths: Sequence[int] = (512, 256, 128, 64, 32),
    ) -> None:
        super().__init__(encoders)
        if overlap < 0 or adversarial < 0:
            raise UserError(f"overlap is {overlap} and adversarial {adversarial}; expected 0 or more")
        self.decoder = Decoder(encoders["image"].dim, widths=widths, at_first=0.5)
        self.adversary = Adversary(widths=judges) if adversarial else None
        self.overlap, self.border, self.error, self.adversarial = overlap, border, error, adversarial

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        shown, whole = batch.views["image"]
        holes, present = batch.extra["holes"], batch.present("image")
        features = encoders["image"](shown)
        drawn = self.decoder(features, whole.shape[2:])
        around = F.max_pool2d(holes, 2 * self.overlap + 1, stride=1, padding=self.overlap)
        weight = holes + self.border * (around - holes)
        total = dist.mean(pixel_error(drawn, as_unit(whole), error=self.error, weight=weight), present)
        logs = {"error": total.detach()}
        if self.adversary is not None:
            # Only the holes are judged: the edge of a hole would tell a drawn image from a true one at once.
            deceit, mistakes = self.adversary.losses(drawn * holes, as_unit(whole) * holes)
            fooling, judging = dist.mean(deceit, present), dist.mean(mistakes, present)
            total = (1 - self.adversarial) * total + self.adversarial * fooling + judging
            logs |= {"fooling": fooling.detach(), "judging": judging.detach()}
        return Loss(total, logs, {"image": features.pooled.detach()})

    def reconstruct(self, encoders: Mapping[str, Encoder], batch: Batch) -> Reconstruction:
        shown, whole = map(as_unit, batch.views["image"])
        drawn = self.decoder(encoders["image"](shown), whole.shape[2:])
        return Reconstruction(shown, torch.where(batch.extra["holes"] > 0, drawn, whole), whole)


method = Method(Views(1, image=[Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0)), Flip()], after=[Holes()]), Inpainting)
