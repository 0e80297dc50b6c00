"""Jigsaw: say in which order the nine patches of a picture are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.nn.mlp import mlp
from mmssl.objectives.frame_order import classified, layers
from mmssl.objectives.multi_view import MultiView
from mmssl.transforms.patches import cut, leveled
from mmssl.transforms.permutations import far_apart
from mmssl.types import Batch, Encoder, Loss, Method, Preprocess
from mmssl.views.single import Single

PLACES = 9


class Puzzle(Single):
    """Shows the nine patches of a grid of 3 x 3 in one of so many orders; the target says which order.

    permutations: how many orders, far from each other, there are; the objective is told as well. patch: side in
    pixels; gap: each lies anywhere in a cell that is so much wider, so that edges do not run on. shift: pixels that
    each channel of a patch is off by at most, either way, which hides what a lens does to colours towards the border;
    grayscale: how often the picture loses its colour, for the same reason. level: each patch has the same brightness
    and contrast. The picture is cut and scaled so that the grid fills it. The rest as Single has it.
    """

    fixed_options: ClassVar = ("views",)
    guards: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gap": {"gap": 0, "shift": 0},
        "level": {"level": False},
        "chromatic": {"shift": 0, "grayscale": 0.0},
    }

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        permutations: int = 1000,
        patch: int = 64,
        gap: int = 7,
        shift: int = 2,
        grayscale: float = 0.3,
        level: bool = True,
        crop_scale: tuple[float, float] = (0.35, 1.0),
        flip: float = 0.5,
        **rest: Any,
    ) -> None:
        if patch < 1 or gap < 0 or shift < 0:
            raise UserError(f"patch is {patch}, gap {gap}, shift {shift}; expected pixels, 0 or more")
        given: Any = preprocess["image"]
        self.cell = patch + 2 * shift + gap
        whole = {**preprocess, "image": replace(given, size=3 * self.cell)}
        super().__init__(whole, crop_scale=crop_scale, flip=flip, grayscale=grayscale, **rest)
        self.patch, self.shift, self.level = patch, shift, level
        self.orders = far_apart(permutations, PLACES)
        self.chance = 1 / permutations

    def on_device(self, batch: Batch) -> Batch:
        batch = super().on_device(batch)
        (picture,) = batch.views["image"]
        batch.target = torch.randint(len(self.orders), (len(picture),), device=picture.device)
        order = self.orders.to(picture.device)[batch.target]  # (B, 9)
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

    permutations: how many orders there are, as the view has it.
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

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        patches = self.pooled(encoders, batch)
        if len(patches) != PLACES:
            raise UserError(f"the task sorts {PLACES} patches, but {len(patches)} are shown")
        target = batch.target
        if target is not None and not target.is_cuda and int(target.max()) >= self.permutations:
            raise UserError(f"the view has more orders than the objective's {self.permutations}; set both permutations")
        rows = self.patch(torch.stack(patches, dim=1))  # (B, 9, width)
        loss = classified(self.answer(rows.flatten(1)), target, self.present(batch))
        loss.embeddings = {self.key: patches[0].detach()}
        return loss


method = Method(Puzzle, Jigsaw)
