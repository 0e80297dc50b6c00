"""Cross and Learn: features of a frame and of the optical flow around it agree, and those of different films do not."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated

import torch

from mmssl import dist
from mmssl.nn.head import Rectified
from mmssl.nn.inside import TOKENS, map_sizes
from mmssl.objectives.matching import next_present
from mmssl.schema import at_least, at_most
from mmssl.types import Batch, Encoder, Loss, Method, Objective, Spaces
from mmssl.views import frame_and_flow


class CrossAndLearn(Objective):
    """Cosine distance of a film's frame and flow, and similarity of two films' frames, and of their flows.

    The other film is the next in the batch. No number of the features is below 0, so that those of different films are
    at best at right angles. Sayed et al., GCPR 2018; the loss is that of the authors' code, where weight_pos is
    1 - diversity, apart from a constant.

    embed_dim: size of the layer whose outputs are compared, the authors' fc6.
    cells: whether that layer reads all cells of the encoders' maps, each in its place, as fc6 does; or pooled features.
    dropout: of what that layer reads.
    diversity: weight of the similarity of different films; the distance has the rest.
    """

    modalities = ("image", "flow")

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 4096,
        cells: bool = True,
        dropout: Annotated[float, at_least(0), at_most(1)] = 0.5,
        diversity: Annotated[float, at_least(0), at_most(1)] = 0.5,
    ) -> None:
        super().__init__(encoders)
        self.image, self.flow = (
            Rectified(inputs(encoders[key], cells), out=embed_dim, dropout=dropout, cells=cells)
            for key in self.modalities
        )
        self.diversity = diversity

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        present = batch.present("image") & batch.present("flow")
        frame, flow = (head(encoders[key](batch.views[key][0])) for key, head in self.spaces().items())
        following, others = next_present(present)
        agree = (frame * flow).sum(dim=1)
        alike = torch.stack([(x * dist.gather_with_grad(x)[following]).sum(dim=1) for x in (frame, flow)]).sum(dim=0)
        asked = present & others
        cross, diverse = dist.mean(1 - agree, present), dist.mean(alike, asked)
        total = 2 * (1 - self.diversity) * cross + self.diversity * diverse
        logs = {"agreement": agree.detach().where(present, torch.nan).nanmean()}
        logs["likeness"] = alike.detach().where(asked, torch.nan).nanmean() / 2
        return Loss(total, logs, {"image": frame.detach(), "flow": flow.detach()})

    def spaces(self) -> Spaces:
        return {"image": self.image, "flow": self.flow}


def inputs(encoder: Encoder, cells: bool) -> int:
    """Returns how many numbers of an encoder's features the layer reads."""
    return prod(map_sizes(encoder, (TOKENS,))[0]) if cells else encoder.dim


method = Method(frame_and_flow.view, CrossAndLearn)
