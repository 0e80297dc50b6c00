"""OPN: sort four shuffled frames of a clip."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, combinations

import torch
from torch import Tensor, nn

from mmssl.objectives.frame_order import classified, each_frame, layers, related
from mmssl.schema import Positive
from mmssl.transforms.base import check_range
from mmssl.transforms.ordered import OrderedFrames, Question, orders, path_lengths
from mmssl.types import Batch, Encoder, Loss, Method, Objective
from mmssl.views.ordered import ordered

FRAMES = 4
ORDERS = orders(FRAMES)  # 12 ways to sort what is shown: a video run backwards looks the same, so both share one
PARTS = {(0, 1): 0, (2, 3): 0, (1, 2): 1, (0, 2): 2, (1, 3): 2, (0, 3): 3}  # which moments a pair is of, either way


@dataclass(kw_only=True)
class ShuffledFrames(OrderedFrames):
    """Shows four frames of a moving window in random order; the target is which of the 12 ways sorts them.

    Forward and backward in time are one way. (The authors' code makes a sequence and its mirror image one class
    instead, so that many of its classes differ in the direction of time only.)

    gap: range of the seconds from one frame to the next.
    """

    shape = (1, FRAMES)
    chance = 1 / len(ORDERS)

    gap: tuple[float, float] = (0.1, 0.3)
    crop: Positive = 80

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gap", self.gap, 0.0, math.inf)

    def ask(self) -> Question:
        offsets = [0, *accumulate(self.steps(self.gap) for _ in range(FRAMES - 1))]
        order = random.sample(range(FRAMES), FRAMES)
        places = tuple(order.index(moment) for moment in range(FRAMES))  # where the first, the second, ... is shown
        return Question(offsets, [order], ORDERS.index(min(places, places[::-1])))

    def by_nearness(self, distances: Tensor) -> Tensor:
        """Takes the shortest path through the frames for their order in time."""
        return path_lengths(distances[:, 0]).argmin(dim=1)


class OPN(Objective):
    """Classifies the order of four frames from the relations of all six pairs. Lee et al., ICCV 2017.

    widths: of the layer that each frame goes through (fc6) and of the one for each pair of frames (fc7).
    dropout: after both.
    cells: side of the grid that fc6 reads instead of the encoder's pooled features.
    tied: costs few samples to learn: pairs are seen as mean and difference of their frames, and those that play the
        same part in an order (neighbours at its ends, in its middle, ...) share weights in the answer.
    """

    modalities = ("video",)
    parts: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        widths: tuple[int, int] = (1024, 512),
        dropout: float = 0.5,
        cells: int | None = None,
        tied: bool = False,
    ) -> None:
        super().__init__(encoders)
        self.cells, self.tied = cells, tied
        self.frame = layers([encoders["video"].dim * (cells or 1) ** 2, widths[0]], dropout=dropout)
        self.pair = layers([2 * widths[0], widths[1]], dropout=dropout)
        moments = [[places.index(shown) for shown in range(FRAMES)] for places in ORDERS]
        parts = [[PARTS[min(pair), max(pair)] for pair in combinations(m, 2)] for m in moments]
        self.register_buffer("parts", torch.tensor(parts), persistent=False)  # (12, 6)
        self.answer = nn.Linear(widths[1], 4) if tied else nn.Linear(len(PARTS) * widths[1], len(ORDERS))

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        frames = self.frame(each_frame(encoders["video"], batch.views["video"][0], cells=self.cells))  # (B, 4, fc6)
        pairs = self.pair(related(frames, symmetric=self.tied))  # (B, 6, fc7)
        if self.tied:
            scores = self.answer(pairs)[:, range(len(PARTS)), self.parts].sum(dim=2)  # (B, 6, 4 parts) -> (B, 12)
        else:
            scores = self.answer(pairs.flatten(1))
        return classified(scores, batch.target, batch.present("video"))


method = Method(ordered(ShuffledFrames()), OPN)
