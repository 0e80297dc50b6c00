"""CPC: predict the patches of an image from the rows of patches above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.contrast import Contrast, gathered
from mmssl.losses.infonce import info_nce
from mmssl.objectives.multi_view import MultiView
from mmssl.transforms.base import OnDevice
from mmssl.transforms.color import ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.transforms.patches import cut
from mmssl.types import Batch, Encoder, Loss, Method
from mmssl.views.template import Views


@dataclass(kw_only=True)
class Patches(OnDevice):
    """Makes of an image `grid` x `grid` overlapping patches, in the order of reading, each a view.

    Steps behind it change each patch on its own, so that colours do not tell which belong together.
    van den Oord et al., 2018; colours by patch: Henaff et al., ICML 2020.

    grid: patches across and down.
    cell: side of a patch's cell in pixels.
    stride: from one cell to the next, in pixels.
    patch: side of what is shown of a cell, anywhere in it.
    """

    single = True
    modalities = ("image",)
    grid: int = 7
    cell: int = 64
    stride: int = 32
    patch: int = 60

    def __post_init__(self) -> None:
        if self.grid < 2 or not 0 < self.patch <= self.cell or self.stride < 1:
            raise UserError(
                f"grid is {self.grid}, cell {self.cell}, stride {self.stride}, patch {self.patch}; expected at least "
                "2 x 2 cells, and patches no larger than they"
            )

    def side(self, given: int) -> int:
        return self.cell + (self.grid - 1) * self.stride

    def on_device(self, x: Tensor) -> Tensor:
        return cut(x, cell=self.cell, stride=self.stride, side=self.patch)


class CPC(MultiView):
    """InfoNCE of each patch, predicted from a context of rows above, among all patches of the batch.

    Features of patches should not be normalised over the batch where that can be helped: BatchNorm tells which patches
    belong together. van den Oord et al., 2018; the network as in Henaff et al., ICML 2020.

    rows: how far below its context a predicted patch lies; the nearest overlap it.
    embed_dim: of the space in which patches are compared.
    scale: factor on the products of their embeddings.
    width: channels of the context network's layers.
    layers: of the context network.
    """

    modalities = ("image",)

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        rows: Sequence[int] = (3, 4, 5),
        embed_dim: int = 64,
        scale: float = 0.1,
        width: int = 256,
        layers: int = 5,
    ) -> None:
        super().__init__(encoders, encoder="image")
        if not rows or min(rows) < 1:
            raise UserError(f"rows is {list(rows)}; expected how many rows below its context a patch lies, from 1 on")
        self.rows, self.scale = tuple(rows), scale
        self.context = nn.Sequential(*[RowsAbove(self.dim, width) for _ in range(layers)])
        self.target = nn.Linear(self.dim, embed_dim)
        self.foretell = nn.ModuleList(nn.Linear(self.dim, embed_dim) for _ in rows)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        latents, present = torch.stack(self.pooled(encoders, batch), dim=1), self.present(batch)  # (B, N, D)
        samples, patches, _ = latents.shape
        side = isqrt(patches)
        if side**2 != patches or max(self.rows) >= side:
            raise UserError(f"{patches} patches are no square with {max(self.rows)} rows below the first; see rows")
        context = F.relu(self.context(latents.mT.unflatten(2, (side, side)))).flatten(2).mT  # (B, N, D)
        keys = gathered(self.target(latents).flatten(0, 1), present.repeat_interleave(patches))  # (world B N, E)
        places = keys.own.view(samples, patches)
        losses = []
        for below, foretell in zip(self.rows, self.foretell, strict=True):
            seen = patches - below * side  # those with a row so far below them
            foretold = foretell(context[:, :seen]).flatten(0, 1)
            sought = places[:, below * side :].flatten()
            found = info_nce(Contrast(foretold, keys.rows, self.scale, sought, keep=keys.keep))
            losses.append(found.view(samples, -1).mean(dim=1))
        total = dist.mean(torch.stack(losses).mean(dim=0), present)
        assert keys.keep is not None
        logs = {"chance_loss": keys.keep.sum().clamp(min=1).float().log()}
        return Loss(total, logs, {"image": latents.mean(dim=1).detach()})


class RowsAbove(nn.Module):
    """A residual layer on a grid (B, D, H, W), in which each place sees those beside it and those one row above."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(dim, width, 1), nn.Conv2d(width, dim, 1)
        self.across, self.above = nn.Conv2d(width, width, (1, 3), padding=(0, 1)), nn.Conv2d(width, width, (2, 1))

    def forward(self, x: Tensor) -> Tensor:
        beside = self.across(F.relu(self.enter(x)))
        seen = F.relu(self.above(F.pad(beside, (0, 0, 1, 0))))
        return x + self.leave(seen)


STEPS = [
    Crop(scale=(0.7, 1.0), ratio=(1.0, 1.0)),
    Flip(),
    Patches(),
    ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    Grayscale(),
]

method = Method(Views(1, image=STEPS), CPC)
