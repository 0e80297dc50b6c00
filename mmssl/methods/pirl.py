"""PIRL: an image and the shuffled patches of it are both to be recognised by what a memory bank holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.nce import nce
from mmssl.nn.head import Projection
from mmssl.objectives.bank import Bank
from mmssl.objectives.multi_view import MultiView
from mmssl.schema import Positive
from mmssl.transforms.base import OnDevice
from mmssl.transforms.color import ColorJitter, Grayscale
from mmssl.transforms.image import Crop, Flip
from mmssl.transforms.patches import cut
from mmssl.types import Batch, Encoder, Loss, Method, Spaces
from mmssl.views.template import Views


@dataclass(kw_only=True)
class ShuffledPatches(OnDevice):
    """Makes of an image its patches in random order, each a view; steps behind it change each on its own.

    grid: cells across and down; the objective says how many patches there are.
    cell: their side in pixels, by default 85 where the encoder reads 224.
    patch: side of the patch cut from each, by default 64 of 85.
    """

    single = True
    modalities = ("image",)
    grid: int = 3
    cell: Positive | None = None
    patch: Positive | None = None

    def __post_init__(self) -> None:
        if self.grid < 1 or (self.cell and self.patch and self.patch > self.cell):
            raise UserError(f"a grid of {self.grid} with cells of {self.cell} holds no patches of {self.patch} pixels")

    def side(self, given: int) -> int:
        cell = self.cell or round(given * 85 / 224)
        if not 0 < (self.patch or 1) <= cell:
            raise UserError(f"patch is {self.patch}; expected at most a cell's side, {cell} of {given} pixels")
        return self.grid * cell

    def on_device(self, x: Tensor) -> Tensor:
        cell = x.shape[-1] // self.grid
        patches = cut(x, cell=cell, side=self.patch or round(cell * 64 / 85))  # (B, N, 3, P, P)
        order = torch.rand(patches.shape[:2], device=patches.device).argsort(dim=1)
        return patches[torch.arange(len(patches), device=patches.device)[:, None], order]


class PIRL(MultiView):
    """NCE of a sample's memory with the embedding of its image and of its patches. Misra & van der Maaten, CVPR 2020.

    embed_dim: size of the embeddings; those of all patches are joined and projected once more.
    patches: how many the view shows, grid squared.
    temperature: of the softmax.
    negatives: random rows of the memory bank.
    momentum: share of a row that stays when its sample is seen.
    patch_weight: of the patches' term; the image's has one minus that.
    """

    modalities = ("image",)

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 128,
        patches: int = 9,
        temperature: float = 0.07,
        negatives: int = 32000,
        momentum: float = 0.5,
        patch_weight: float = 0.5,
        encoder: str | None = None,
    ) -> None:
        super().__init__(encoders, encoder=encoder or "image")
        self.head = Projection(self.dim, out=embed_dim, bias=True)
        self.patch_head = Projection(self.dim, out=embed_dim, bias=True)
        self.join = nn.Linear(patches * embed_dim, embed_dim)
        self.bank = Bank(embed_dim, momentum=momentum)
        if isqrt(patches) ** 2 != patches:
            raise UserError(f"patches is {patches}; expected a square, such as 9")
        self.patches, self.patch_weight = patches, patch_weight
        self.options: dict[str, Any] = {"noise": negatives, "temperature": temperature}

    def view_options(self) -> dict[str, Any]:
        return {"patches": {"image": {"shuffled_patches": {"grid": isqrt(self.patches)}}}}

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present, index = self.present(batch), batch.extra["index"]
        picture, *patches = self.pooled(encoders, batch)
        if len(patches) != self.patches:
            raise UserError(f"{len(patches)} patches are shown, {self.patches} expected; set objective.patches")
        embedded = F.normalize(self.head.project(picture), dim=1)
        joined = self.join(torch.cat([self.patch_head.project(x) for x in patches], dim=1)).float()
        terms = {"picture": embedded, "patches": F.normalize(joined, dim=1)}
        losses = {name: dist.mean(self._recognise(x, index, present), present) for name, x in terms.items()}
        self.bank.note(index, embedded, present)
        total = self.patch_weight * losses["patches"] + (1 - self.patch_weight) * losses["picture"]
        logs = {f"loss_{name}": value.detach() for name, value in losses.items()}
        return Loss(total, logs, {self.key: embedded.detach()})

    def _recognise(self, queries: Tensor, index: Tensor, present: Tensor) -> Tensor:
        return nce(*self.bank.scores(queries, index, present=present, **self.options))

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.bank.write()

    def spaces(self) -> Spaces:
        return {self.key: self.head}


COLORS = (ColorJitter(p=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2), Grayscale())
PATCHES = [Crop(scale=(0.6, 1.0)), Flip(), ShuffledPatches(), *COLORS]

method = Method(Views(1, image=[Crop(), Flip(), *COLORS], patches=Views(1, image=PATCHES)), PIRL)
