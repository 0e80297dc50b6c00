"""PIRL: a picture and the shuffled patches of it are both to be recognised by what a memory bank holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.nce import nce
from mmssl.nn.head import Projection
from mmssl.objectives.bank import Bank
from mmssl.objectives.multi_view import MultiView
from mmssl.transforms import image
from mmssl.transforms.patches import cut
from mmssl.types import Batch, Encoder, Loss, Method, Preprocess, Sample, Spaces
from mmssl.views.pair import Pair


class JigsawPair(Pair):
    """Shows a crop of a picture, and patches of another crop in random order, each recoloured on its own.

    grid: the second crop has so many cells across and down; cell: their side in pixels, side: that of the patches cut
    from them, by default 85 and 64 where the first crop has 224. patch_scale: share of the area of the second crop.
    The rest as Pair has it, of one view. Misra & van der Maaten, CVPR 2020.
    """

    fixed_options: ClassVar = ("views",)

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        *,
        grid: int = 3,
        cell: int | None = None,
        side: int | None = None,
        patch_scale: tuple[float, float] = (0.6, 1.0),
        color_jitter: float = 1.0,
        jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.2),
        blur: float = 0.0,
        **rest: Any,
    ) -> None:
        super().__init__(preprocess, views=1, color_jitter=color_jitter, jitter=jitter, blur=blur, **rest)
        size = self.prepare["image"].size
        self.grid, self.cell, self.side = grid, cell or round(size * 85 / 224), side or round(size * 64 / 224)
        if grid < 1 or self.side > self.cell:
            raise UserError(f"view: a grid of {grid} with cells of {self.cell} holds no patches of {self.side} pixels")
        self.patch_scale = image.check_range("patch_scale", patch_scale, 0.01, 1.0)
        self.shows = {"image": 2}

    def __call__(self, sample: Sample) -> Sample:
        shown = super().__call__(sample)
        if "image" in shown:
            shown["image"].append(self._crop(image.opened(sample["image"]), self.grid * self.cell, self.patch_scale))
        return shown

    def on_device(self, batch: Batch) -> Batch:
        """Makes a list of the crop and of the patches (B, 3, side, side)."""
        picture, whole = batch.views["image"]
        patches = cut(whole, cell=self.cell, side=self.side)  # (B, N, 3, side, side)
        order = torch.rand(patches.shape[:2], device=patches.device).argsort(dim=1)
        patches = patches[torch.arange(len(patches), device=patches.device)[:, None], order]
        colored = self._colored(patches.flatten(0, 1), self.chances[0]).view(patches.shape)
        batch.views["image"] = [self._colored(picture, self.chances[0]), *colored.unbind(1)]
        return batch


class PIRL(MultiView):
    """NCE of a sample's memory with the embedding of its picture and of its patches. Misra & van der Maaten, CVPR 2020.

    patches: how many the view shows, grid squared; the linear embeddings of all are joined and projected once more.
    patch_weight: of the patches' term, of the picture's one minus that. negatives: random rows of the bank; momentum:
    how much of a row stays when its sample is seen. encoder: as MultiView has it.
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
        self.patches, self.patch_weight = patches, patch_weight
        self.options: dict[str, Any] = {"noise": negatives, "temperature": temperature}

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


method = Method(JigsawPair, PIRL)
