"""Relative position: say on which side of one patch of an image another one lay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.nn.mlp import mlp
from mmssl.nn.normalize import IMAGENET_MEAN
from mmssl.numerics.color import as_unit
from mmssl.numerics.constants import constant
from mmssl.objectives.frame_order import classified
from mmssl.objectives.multi_view import MultiView
from mmssl.transforms.base import OnBatch
from mmssl.transforms.image import Crop
from mmssl.transforms.patches import cut
from mmssl.types import Batch, Encoder, Loss, Method
from mmssl.views.template import Views

MIDDLE, AROUND = 4, 8  # of a grid of 3 x 3, row by row: the place of one patch, and how many others there are
MAGENTA_GREEN = (-1.0, 2.0, -1.0)  # the axis of colour along which lenses spread an edge


@dataclass(kw_only=True)
class Neighbors(OnBatch):
    """Shows the middle patch of a grid of 3 x 3 and one of the eight around it; the target says which.

    The image is cut and scaled so that the grid fills it.

    patch: side of a patch in pixels.
    gap: pixels between patches, about half a patch.
    jitter: up to this many pixels each is off its place.
    color: `drop` leaves each patch one random channel and puts faint noise about the mean for the others, `project`
        takes out what lies between green and magenta, which a lens shifts towards the border and so betrays the place,
        `keep` does neither.
    """

    single = True
    patch: int = 96
    gap: int = 48
    jitter: int = 7
    color: Literal["drop", "project", "keep"] = "drop"

    def __post_init__(self) -> None:
        if self.patch < 1 or self.gap < 0 or self.jitter < 0:
            raise UserError(f"patch is {self.patch}, gap {self.gap}, jitter {self.jitter}; expected pixels, 0 or more")

    @property
    def chance(self) -> float:
        return 1 / AROUND

    def side(self, preprocess: Mapping[str, Any]) -> int:
        return 3 * self.patch + 2 * self.gap + 2 * self.jitter

    def on_batch(self, batch: Batch) -> Batch:
        (picture,) = batch.views["image"]
        cell = self.patch + 2 * self.jitter
        patches = cut(picture, cell=cell, stride=self.patch + self.gap, side=self.patch)  # (B, 9, 3, P, P)
        batch.target = torch.randint(AROUND, (len(picture),), device=picture.device)
        which = batch.target + (batch.target >= MIDDLE)
        pair = patches[:, MIDDLE], patches[torch.arange(len(picture), device=picture.device), which]
        recolor = {"drop": drop_colors, "project": project_colors, "keep": lambda x: x}[self.color]
        batch.views["image"] = [recolor(patch) for patch in pair]
        return batch


def drop_colors(x: Tensor) -> Tensor:
    """Leaves each of images (B, 3, H, W) one random channel; the others hold noise of 1/100 its deviation."""
    x = as_unit(x)
    kept = torch.arange(3, device=x.device) == torch.randint(3, (len(x), 1), device=x.device)
    kept = kept[:, :, None, None]  # (B, 3, 1, 1)
    deviation = (x.std((2, 3), keepdim=True) * kept).sum(dim=1, keepdim=True)
    mean = constant(IMAGENET_MEAN, x.device)[:, None, None]
    return torch.where(kept, x, mean + deviation / 100 * torch.randn_like(x))


def project_colors(x: Tensor) -> Tensor:
    """Takes from colours (B, 3, H, W) their part along the axis from magenta to green; grey stays as it is."""
    axis = constant(MAGENTA_GREEN, x.device)
    matrix = torch.eye(3, device=x.device) - torch.outer(axis, axis) / axis.square().sum()
    return torch.einsum("dc,bchw->bdhw", matrix, as_unit(x))


class RelativePosition(MultiView):
    """Classifies the place of the second patch from both patches' pooled features. Doersch et al., ICCV 2015.

    hidden: widths of the layers before the answer, each with BatchNorm.
    """

    modalities = ("image",)

    def __init__(self, encoders: Mapping[str, Encoder], *, hidden: Sequence[int] = (4096, 4096)) -> None:
        super().__init__(encoders, encoder="image")
        self.answer = mlp((2 * self.dim, *hidden, AROUND), bias=True)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        pair = self.pooled(encoders, batch)[:2]
        loss = classified(self.answer(torch.cat(pair, dim=1)), batch.target, self.present(batch))
        loss.embeddings = {self.key: pair[0].detach()}
        return loss


STEPS = [Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0))]
GUARDS: dict[str, dict[str, Any]] = {
    "gap": {"neighbors": {"gap": 0}},
    "jitter": {"neighbors": {"jitter": 0}},
    "chromatic": {"neighbors": {"color": "keep"}},
}

method = Method(Views(1, image=STEPS, after=[Neighbors()], guards=GUARDS), RelativePosition)
