"""Colour tracking: colour a grey frame by pointing at the earlier frames that its colours are copied from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.losses.pointer import pointed, pointer_nll
from mmssl.nn.head import Cells, Dilated
from mmssl.nn.temperature import LogitScale
from mmssl.numerics.bins import rarity
from mmssl.numerics.color import gray, lab
from mmssl.numerics.kmeans import kmeans, nearest
from mmssl.schema import Positive, above, at_least, at_most
from mmssl.transforms.base import OnBatch
from mmssl.transforms.frames import Colorful, Window
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Encoder, Epoch, Features, Head, Loss, Method, Objective, Spaces
from mmssl.views.template import Views

LEARN_BATCHES = 1000  # at most, for the clusters of colour


@dataclass(kw_only=True)
class CellColors(OnBatch):
    """Takes the colour of a video away, and adds a and b of Lab of each cell as `colors` (B, T, 2, h, w).

    cell: side, in pixels, of the squares whose colour is averaged.
    gray: off, the network sees colour and need not track.
    """

    single = True
    cell: Positive = 8
    gray: bool = True

    def check(self, preprocess: Mapping[str, Any]) -> None:
        size = preprocess["video"].size
        if size % self.cell:
            raise UserError(
                f"frames of {size} pixels do not divide into cells of {self.cell}; set view.cell_colors.cell"
            )

    def on_batch(self, batch: Batch) -> Batch:
        (clip,) = batch.views["video"]
        colors = F.avg_pool2d(lab(clip)[:, 1:].transpose(1, 2).flatten(0, 1), self.cell)
        batch.extra["colors"] = colors.unflatten(0, (len(clip), -1))
        if self.gray:
            batch.views["video"] = [gray(clip)]
        return batch


class ColorTracking(Objective):
    """Asks for the colour cluster of each cell of the last frame, as a mixture of those of all earlier frames' cells.

    Vondrick et al., ECCV 2018 ("Tracking emerges by colorizing videos"); here the embeddings have unit length and the
    temperature is learnt, which keeps a small network from saturating. The encoder must keep every frame, as `frames`
    does.

    clusters: of colour, by k-means on cells of the training stream.
    head: the paper's dilated 3D convolutions, or `cells`, a linear layer on each cell.
    coordinates: `cells` sees where each cell lies as well, as the dilated convolutions do.
    embed_dim: size of a cell's embedding.
    width: channels of the dilated convolutions.
    temperature: of the softmax over cells, where the learnt one starts.
    still: weight in the loss of cells of the same cluster as the same cell of the frame before, which copying answers;
        0 asks about the others only.
    tolerance: cells whose a and b are at most this far from those of that cell are still as well: near the border of
        two clusters noise alone moves cells from one to the other.
    uniform: between 0, where clusters count by how rare they are, and 1, where all count alike (lambda of Zhang et al.,
        ECCV 2016).
    learn_from: cells that k-means takes.
    """

    modalities = ("video",)
    centers: Tensor
    weights: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        clusters: int = 16,
        head: Literal["dilated", "cells"] = "dilated",
        coordinates: bool = True,
        embed_dim: int = 64,
        width: int = 256,
        temperature: float = 0.1,
        still: Annotated[float, at_least(0)] = 1.0,
        tolerance: Annotated[float, at_least(0)] = 0.0,
        uniform: Annotated[float, above(0), at_most(1)] = 1.0,
        learn_from: int = 50_000,
    ) -> None:
        super().__init__(encoders)
        dim, self.uniform, self.learn_from = encoders["video"].dim, uniform, learn_from
        self.still, self.tolerance = still, tolerance
        dilated = head == "dilated"
        self.head: Head = (
            Dilated(dim, out=embed_dim, width=width) if dilated else Cells(dim, out=embed_dim, coordinates=coordinates)
        )
        self.scale = LogitScale(start=1 / temperature)
        self.register_buffer("centers", torch.zeros(clusters, 2))
        self.register_buffer("weights", torch.ones(clusters))

    def before_epoch(self, encoders: Mapping[str, Encoder], epoch: Epoch) -> None:
        """Finds the clusters of colour, before the first, and how much each counts, on a bounded sample of cells."""
        if epoch.number:
            return
        colors, wanted = [], -(-self.learn_from // dist.world())
        for batch in islice(epoch.batches(), LEARN_BATCHES):
            seen = batch.extra["colors"][batch.present("video")].movedim(2, -1).flatten(0, -2).cpu()
            colors.append(seen[torch.randperm(len(seen))[: wanted // 8 + 1]])
            if sum(map(len, colors)) >= wanted:
                break
        mine = torch.cat(colors)[:wanted].to(self.centers.device)
        seen = dist.gather(mine).cpu()
        self.centers.copy_(kmeans(seen, len(self.centers)))
        shares = nearest(seen, self.centers.cpu())[0].bincount(minlength=len(self.centers)) / len(seen)
        self.weights.copy_(rarity(shares, self.uniform))

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        (clip,) = batch.views["video"]
        features = encoders["video"](clip)
        cells = self.head(features).unflatten(1, (self._frames(features, clip), -1))  # (B, T, N, D)
        colors = self._colors(batch.extra["colors"], features)  # (B, T, N, 2)
        clusters = nearest(colors.flatten(0, -2), self.centers)[0].view(colors.shape[:-1])  # (B, T, N)
        targets, references = cells[:, -1], cells[:, :-1].flatten(1, 2)
        truth, known = clusters[:, -1], clusters[:, :-1].flatten(1)
        scale = self.scale()
        losses = pointer_nll(targets, references, known, truth, scale=scale)  # (B, N)
        colored = F.one_hot(known, len(self.centers)).float()  # (B, M, K)
        present, counts = batch.present("video")[:, None], colored.sum(dim=1)  # (B, 1), (B, K)
        still, answerable = clusters[:, -2] == truth, counts.gather(1, truth) > 0
        changed = ~still & ((colors[:, -1] - colors[:, -2]).norm(dim=-1) > self.tolerance)
        weights = self.weights[truth] * torch.where(changed, 1.0, self.still) * (present & answerable)  # (B, N)
        guessed = pointed(targets, references, colored, scale=scale.detach()).argmax(dim=2)
        answers = _shares(guessed == truth, counts.argmax(dim=1, keepdim=True) == truth, still, changed & answerable)
        answers = {name: found.where(present[:, 0], torch.nan) for name, found in answers.items()}
        total = dist.mean(losses.flatten(), weights.flatten())
        logs = {name: found.nanmean() for name, found in answers.items()} | {"temperature": 1 / scale.detach()}
        return Loss(total, logs, {"video": targets[:, targets.shape[1] // 2].detach()}, answers)

    def _frames(self, features: Features, clip: Tensor) -> int:
        """Returns how many frames the clip has; UserError unless the encoder made cells of every one."""
        if features.grid is None or features.grid[0] != clip.shape[2]:
            raise UserError(
                f"colour is copied from frame to frame, but of {clip.shape[2]} this video encoder makes the grid "
                f"{features.grid}; choose one that keeps each frame, such as frames over an image encoder with a grid"
            )
        return clip.shape[2]

    def _colors(self, colors: Tensor, features: Features) -> Tensor:
        """Returns the mean of colours (B, T, 2, h, w) in each cell of the encoder's grid: (B, T, N, 2)."""
        assert features.grid is not None
        means = F.adaptive_avg_pool2d(colors.flatten(0, 1), (features.grid[-2], features.grid[-1]))  # (B T, 2, H, W)
        return means.flatten(2).mT.unflatten(0, colors.shape[:2])

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.scale.clamp()

    def spaces(self) -> Spaces:
        return {"video": self.head}


def _shares(correct: Tensor, majority: Tensor, still: Tensor, changed: Tensor) -> dict[str, Tensor]:
    """Returns shares (B,) of cells (B, N): how many are right, and how many of those that copying does not answer.

    margin: by how much more are right than by copying the same cell of the frame before, which is right where `still`.
    changed: how many of the cells that are not still are right; NaN where there are none.
    """
    kinds = {"correct": correct, "majority": majority, "still": still}
    found = {name: kind.float().mean(dim=1) for name, kind in kinds.items()}
    found["margin"] = found["correct"] - found["still"]
    return found | {"changed": (correct & changed).sum(dim=1) / changed.sum(dim=1)}


STEPS = [Window(frames=4, fps=6.0), Crop(scale=(0.5, 1.0), ratio=(1.0, 1.0)), Flip(), Colorful()]
GUARDS = {"grey": {"cell_colors": {"gray": False}}}

method = Method(Views(1, guards=GUARDS, video=STEPS, after=[CellColors()]), ColorTracking)
