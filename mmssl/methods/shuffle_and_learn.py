"""Shuffle & Learn: tell whether three frames of a clip are in order."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from mmssl.objectives.frame_order import classified, each_frame, layers, related
from mmssl.schema import above, below
from mmssl.transforms.base import chance, check_range
from mmssl.transforms.ordered import OrderedFrames, Question, path_lengths
from mmssl.types import Batch, Encoder, Loss, Method, Objective
from mmssl.views.ordered import ordered


@dataclass(kw_only=True)
class OrderVerification(OrderedFrames):
    """Shows three frames of a<b<c<d<e: (b, c, d) is in order, 1; (b, a, d) and (b, e, d) are not, 0; all also reversed.

    positives: the share of samples in order.
    span: range of the seconds from b to d (tau max of the paper).
    outside: range of the seconds from a to b and from d to e (tau min): the shorter, the harder.
    fixed_ends: both kinds begin with b and end with d, so that only the middle decides; without it the wrong order is
        (c, b, d) or (b, d, c).
    """

    guards: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fixed_ends": {"fixed_ends": False}, **OrderedFrames.guards}
    shape = (1, 3)

    positives: Annotated[float, above(0), below(1)] = 0.25
    span: tuple[float, float] = (0.6, 2.4)
    outside: tuple[float, float] = (0.6, 1.2)
    fixed_ends: bool = True
    search: Annotated[float, above(0)] = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("span", self.span, 0.0, math.inf)
        check_range("outside", self.outside, 0.0, math.inf)

    @property
    def chance(self) -> float:
        """The more frequent answer's share."""
        return max(self.positives, 1 - self.positives)

    def ask(self) -> Question:
        before, inside, after = self.steps(self.outside), max(2, self.steps(self.span)), self.steps(self.outside)
        middle = random.randint(1, inside - 1) if self.random_times else inside // 2
        offsets = [0, before, before + middle, before + inside, before + inside + after]  # a, b, c, d, e
        in_order = chance(self.positives)
        wrong = [(1, 0, 3), (1, 4, 3)] if self.fixed_ends else [(2, 1, 3), (1, 3, 2)]
        order = (1, 2, 3) if in_order else random.choice(wrong)
        return Question(offsets, [order[::-1] if chance(0.5) else order], int(in_order))

    def by_nearness(self, distances: Tensor) -> Tensor:
        """Says yes where the ends lie furthest apart."""
        lengths = path_lengths(distances[:, 0])
        return (lengths[:, 0] <= lengths.amin(dim=1)).long()


class ShuffleAndLearn(Objective):
    """Classifies three frames' concatenated features as in order or not. Misra et al., ECCV 2016.

    widths: of the layers that each frame goes through.
    hidden: widths of the layers between the concatenation and the answer, none in the paper; without one every frame
        adds to the answer on its own.
    dropout: after each of these layers.
    cells: side of the grid that is read instead of the encoder's pooled features.
    tied: costs few samples to learn: the hidden layers see the mean and the difference of two frames at a time, the
        middle one and either end alike, and both ends.
    """

    modalities = ("video",)

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        widths: tuple[int, ...] = (4096, 4096),
        hidden: tuple[int, ...] = (),
        dropout: float = 0.5,
        cells: int | None = None,
        tied: bool = False,
    ) -> None:
        super().__init__(encoders)
        self.cells, self.tied = cells, tied
        of_frame = [encoders["video"].dim * (cells or 1) ** 2, *widths]
        of_all = [(2 if tied else 3) * of_frame[-1], *hidden]
        self.frame, self.all = layers(of_frame, dropout=dropout), layers(of_all, dropout=dropout)
        self.answer = nn.Linear((2 if tied else 1) * of_all[-1], 2)

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        frames = self.frame(each_frame(encoders["video"], batch.views["video"][0], cells=self.cells))  # (B, 3, D)
        if self.tied:
            before, ends, after = self.all(related(frames, symmetric=True)).unbind(1)
            joint = torch.cat([before + after, ends], dim=1)
        else:
            joint = self.all(frames.flatten(1))
        return classified(self.answer(joint), batch.target, batch.present("video"))


method = Method(ordered(OrderVerification()), ShuffleAndLearn)
