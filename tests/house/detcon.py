"""DetCon: each region of one crop finds the same region of the other among those of all images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.nn.head import Projection
from mmssl.nn.regions import mask_shares, masked_mean
from mmssl.objectives.multi_view import MultiView
from mmssl.transforms.color import ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Features, Loss, Method, Spaces, View
from mmssl.views.template import Views

SEEN = 0.5  # cells that a region must cover in both crops


class DetCon(MultiView):
    """Contrasts features averaged over the masks of two crops. Henaff et al., ICCV 2021.

    embed_dim: of a region's projection.
    hidden: hidden layers of the projection.
    temperature: of the softmax.
    regions: the numbers of the mask, from 0, that are regions.
    """

    modalities = ("image",)

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        hidden: tuple[int, ...] = (512,),
        temperature: float = 0.1,
        regions: int = 16,
    ) -> None:
        super().__init__(encoders, encoder="image")
        self.head = Projection(self.dim, out=embed_dim, hidden=hidden, norm=False)
        self.temperature, self.regions = temperature, regions

    def check_view(self, view: View) -> None:
        if getattr(view, "aligned", {}).get("mask") != "mask":
            raise UserError("the task needs masks that move with the image; set view.fields.mask to mask")

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present = self.present(batch)
        ids = torch.arange(self.regions, device=present.device).expand(len(present), -1)
        pooled, seen = [], []
        for features, mask in zip(self.features(encoders, batch), batch.fields["image"]["mask"], strict=True):
            assert features.tokens is not None and features.grid
            shares = mask_shares(mask, ids, features.grid)  # (B, K, N)
            pooled.append(self.head(Features(masked_mean(features.tokens, shares).flatten(0, 1))))
            seen.append(shares.sum(dim=2) >= SEEN)
        there = (seen[0] & seen[1] & present[:, None]).flatten()  # (B K,)
        losses = [self._cost(pooled[i], pooled[1 - i], there) for i in (0, 1)]
        total = dist.mean(torch.stack(losses).mean(dim=0), there)
        return Loss(total, {"regions": there.float().mean()}, {self.key: pooled[0].detach()})

    def _cost(self, asked: Tensor, keys: Tensor, there: Tensor) -> Tensor:
        """Returns what it costs each region to find itself among those that are there."""
        scores = (asked @ keys.T / self.temperature).masked_fill(~there, -torch.inf)
        own = torch.arange(len(asked), device=asked.device)
        return F.cross_entropy(scores, own, reduction="none").where(there, 0.0)

    def spaces(self) -> Spaces:
        return {self.key: self.head}


STEPS = [Crop(scale=(0.3, 1.0)), Flip(), ColorJitter(), Grayscale()]

method = Method(Views(2, image=STEPS, fields={"mask": "mask"}), DetCon)
