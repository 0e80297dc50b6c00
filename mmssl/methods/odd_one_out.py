"""Odd-one-out: find the one sequence of frames, among several of a clip, that is out of order."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from mmssl.objectives.frame_order import classified, each_frame, layers
from mmssl.schema import at_least
from mmssl.transforms.base import check_range
from mmssl.transforms.ordered import OrderedFrames, Question, path_lengths
from mmssl.types import Batch, Encoder, Loss, Method, Objective
from mmssl.views.ordered import ordered


@dataclass(kw_only=True)
class OddSequence(OrderedFrames):
    """Shows sequences of frames of one moving window; all but one are in order, and the target is which is not.

    The odd one is neither forward nor backward.

    sequences: how many are shown.
    frames: of each sequence.
    window: range of the seconds that a sequence's frames are drawn from, every one its own.
    """

    sequences: Annotated[int, at_least(2)] = 6
    frames: Annotated[int, at_least(3)] = 6
    window: tuple[float, float] = (1.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("window", self.window, 0.0, math.inf)

    @property
    def shape(self) -> tuple[int, int]:
        return self.sequences, self.frames

    @property
    def chance(self) -> float:
        """All sequences are equally often the odd one."""
        return 1 / self.sequences

    def ask(self) -> Question:
        offsets = range(max(self.frames - 1, self.steps(self.window)) + 1)
        views = [sorted(random.sample(offsets, self.frames)) for _ in range(self.sequences)]
        odd = random.randrange(self.sequences)
        forward = views[odd].copy()
        while views[odd] in (forward, forward[::-1]):
            random.shuffle(views[odd])
        return Question(offsets, views, odd)

    def by_nearness(self, distances: Tensor) -> Tensor:
        """Says the sequence whose frames, as shown, lie furthest beyond the shortest path through them."""
        along = torch.diagonal(distances, offset=1, dim1=-2, dim2=-1).sum(dim=-1)  # (B, V)
        return (along / path_lengths(distances).amin(dim=-1).clamp(min=1e-9)).argmax(dim=1)


class OddOneOut(Objective):
    """Scores how much each sequence differs from all the others. Fernando et al., CVPR 2017.

    Frames are encoded one by one, so that any video encoder sees their order.

    frames: of a sequence, as the view has it.
    widths: of the layers that a sequence goes through; the last is what differences are taken of.
    dropout: after each of these layers.
    cells: side of the grid that is read instead of the encoder's pooled features.
    """

    modalities = ("video",)

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        frames: int = 6,
        widths: tuple[int, ...] = (4096, 128),
        dropout: float = 0.5,
        cells: int | None = None,
    ) -> None:
        super().__init__(encoders)
        self.cells = cells
        sizes = [frames * encoders["video"].dim * (cells or 1) ** 2, *widths]
        self.sequence = layers(sizes, dropout=dropout)
        self.answer = nn.Linear(sizes[-1], 1)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        views = batch.views["video"]
        frames = each_frame(encoders["video"], torch.cat(views), cells=self.cells)  # (V B, T, D)
        sequences = self.sequence(frames.flatten(1)).unflatten(0, (len(views), -1)).transpose(0, 1)  # (B, V, D)
        # the sum over the others of (one - other) is what one exceeds all of them together by
        differences = len(views) * sequences - sequences.sum(dim=1, keepdim=True)
        return classified(self.answer(differences)[..., 0], batch.target, batch.present("video"))


method = Method(ordered(OddSequence()), OddOneOut)
