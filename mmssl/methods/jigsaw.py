"""Jigsaw: say in which order the nine patches of an image are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.nn.mlp import mlp
from mmssl.objectives.frame_order import classified, layers
from mmssl.objectives.multi_view import MultiView
from mmssl.transforms.base import OnBatch
from mmssl.transforms.color import Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.transforms.patches import cut, leveled
from mmssl.transforms.permutations import far_apart
from mmssl.types import Batch, Encoder, Loss, Method
from mmssl.views.template import Views

PLACES = 9


@dataclass(kw_only=True)
class Puzzle(OnBatch):
    """Shows the nine patches of a grid of 3 x 3 in one of this many orders; the target says which order.

    The image is cut and scaled so that the grid fills it.

    permutations: how many orders, far from each other, there are; the objective says how many.
    patch: side of a patch in pixels.
    gap: each patch lies anywhere in a cell that is this many pixels wider, so that edges do not run on.
    shift: pixels that each channel of a patch is off by at most, either way, which hides what a lens does to colours
        towards the border.
    level: whether each patch has the same brightness and contrast.
    """

    single = True
    permutations: int = 1000
    patch: int = 64
    gap: int = 7
    shift: int = 2
    level: bool = True

    def __post_init__(self) -> None:
        if self.patch < 1 or self.gap < 0 or self.shift < 0:
            raise UserError(f"patch is {self.patch}, gap {self.gap}, shift {self.shift}; expected pixels, 0 or more")
        self.orders = far_apart(self.permutations, PLACES)

    @property
    def chance(self) -> float:
        return 1 / self.permutations

    @property
    def cell(self) -> int:
        """The side of a patch's cell in pixels."""
        return self.patch + 2 * self.shift + self.gap

    def side(self, preprocess: Mapping[str, Any]) -> int:
        return 3 * self.cell

    def on_batch(self, batch: Batch) -> Batch:
        (picture,) = batch.views["image"]
        batch.target = torch.randint(len(self.orders), (len(picture),), device=picture.device)
        self.orders = self.orders.to(picture.device)  # once
        order = self.orders[batch.target]  # (B, 9)
        patches = self._patches(picture)
        shuffled = patches.gather(1, order[:, :, None, None, None].expand(-1, -1, *patches.shape[2:]))
        batch.views["image"] = list(shuffled.unbind(1))
        return batch

    def _patches(self, picture: Tensor) -> Tensor:
        """Cuts the patches (B, 9, 3, P, P) in the order of reading."""
        wide = cut(picture, cell=self.cell, side=self.patch + 2 * self.shift)
        if self.shift:  # each channel is cut out on its own
            alone = cut(wide.flatten(0, 2)[:, None], cell=wide.shape[-1], side=self.patch)
            wide = alone[:, 0, 0].unflatten(0, wide.shape[:3])
        return leveled(wide) if self.level else wide


class Jigsaw(MultiView):
    """Classifies the order from the features of all nine patches, in a row. Noroozi & Favaro, ECCV 2016.

    permutations: how many orders the view shows.
    width: of the layer that each patch's pooled features go through (fc6).
    hidden: widths of the layers for all patches together (fc7), each with BatchNorm.
    dropout: after the first of these layers.
    """

    modalities = ("image",)

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        permutations: int = 1000,
        width: int = 1024,
        hidden: Sequence[int] = (4096,),
        dropout: float = 0.5,
    ) -> None:
        super().__init__(encoders, encoder="image")
        self.permutations = permutations
        self.patch = layers([self.dim, width], dropout=dropout)
        self.answer = mlp((PLACES * width, *hidden, permutations), bias=True)

    def view_options(self) -> dict[str, Any]:
        return {"puzzle": {"permutations": self.permutations}}

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        patches = self.pooled(encoders, batch)
        if len(patches) != PLACES:
            raise UserError(f"the task sorts {PLACES} patches, but {len(patches)} are shown")
        rows = self.patch(torch.stack(patches, dim=1))  # (B, 9, width)
        loss = classified(self.answer(rows.flatten(1)), batch.target, self.present(batch))
        loss.embeddings = {self.key: patches[0].detach()}
        return loss


# Grey images hide what a lens does to colours towards the border.
STEPS = [Crop(scale=(0.35, 1.0), ratio=(1.0, 1.0)), Flip(), Grayscale(p=0.3)]
GUARDS: dict[str, dict[str, Any]] = {
    "gap": {"puzzle": {"gap": 0, "shift": 0}},
    "level": {"puzzle": {"level": False}},
    "chromatic": {"puzzle": {"shift": 0}, "image": {"grayscale": {"p": 0.0}}},
}

method = Method(Views(1, image=STEPS, after=[Puzzle()], guards=GUARDS), Jigsaw)
