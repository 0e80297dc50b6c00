"""Tasks about boxes of images: a detector's pyramid and head on an encoder, and a slow copy of all of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from mmssl.nn.boxes import BoxNetwork
from mmssl.nn.ema import ema_update
from mmssl.nn.head import Projection
from mmssl.objectives.multi_view import MultiView
from mmssl.types import Encoder


class BoxTask(MultiView):
    """A task that embeds boxes of images. `detector` is what a detector takes over from it, beside the encoder."""

    def build(self, encoders: Mapping[str, Encoder], *, width: int, hidden: Sequence[int], head: Projection) -> None:
        """Sets up the parts; a class calls it as it is made.

        width: channels of the pyramid and of the head's convolutions. hidden: widths of the linear layers of the
        detector's head. head: projects what they make.
        """
        self.detector, self.head = BoxNetwork(encoders[self.key], width=width, hidden=hidden), head
        self.teacher = copy.deepcopy(self.parts(encoders)).requires_grad_(False)

    def parts(self, encoders: Mapping[str, Encoder]) -> nn.ModuleList:
        """Returns the encoder, the detector's parts and the projector, as the teacher holds copies of them."""
        return nn.ModuleList([encoders[self.key], self.detector, self.head])

    def follow(self, encoders: Mapping[str, Encoder], *, decay: float) -> None:
        """Moves the teacher towards the network by 1 - decay."""
        ema_update(self.teacher, self.parts(encoders), decay=decay)


def levels_of(parts: nn.ModuleList, images: Tensor) -> list[Tensor]:
    """Returns the levels of the pyramid (B, width, H, W) of images."""
    return cast("BoxNetwork", parts[1]).levels(cast("Encoder", parts[0]), images)


def embed_boxes(
    parts: nn.ModuleList, levels: Sequence[Tensor], number: int | Tensor, boxes: Tensor, sample: Tensor
) -> Tensor:
    """Returns projections (N, out), not normalised, of boxes (N, 4) in pixels of the samples (N,).

    number: of the level that all of them are cut of, or of each of them (N,).
    """
    return cast("Projection", parts[2]).project(cast("BoxNetwork", parts[1])(levels, number, boxes, sample))
