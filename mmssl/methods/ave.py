"""AVE-Net: image and sound of one video lie close in a joint space, so that either retrieves the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.losses.binary import binary_correspondence
from mmssl.nn.head import Projection
from mmssl.objectives.matching import Matching
from mmssl.types import Encoder, Features, Method, Spaces
from mmssl.views import synchronised


class AVE(Matching):
    """Judges the distance of normalised embeddings by a learnt threshold. Arandjelovic & Zisserman, ECCV 2018.

    visual: the encoder that sees, image or video.
    embed_dim: size of the joint embedding.
    hidden: widths of the projections' hidden layers.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        visual: Literal["image", "video"] = "image",
        embed_dim: int = 128,
        hidden: tuple[int, ...] = (128,),
    ) -> None:
        super().__init__(encoders, visual=visual)
        self.heads = nn.ModuleDict(
            {key: Projection(encoders[key].dim, out=embed_dim, hidden=hidden, norm=False) for key in self.uses}
        )
        self.judge = nn.Linear(1, 2)
        with torch.no_grad():  # near is yes from the start, for a judge of the wrong sign learns the space inside out
            self.judge.weight.copy_(torch.tensor([[1.0], [-1.0]]))
            self.judge.bias.copy_(torch.tensor([-1.0, 1.0]))

    def log_odds(self, visual: Features, audio: Features) -> Tensor:
        distance = F.pairwise_distance(self.heads[self.visual](visual), self.heads["audio"](audio))
        no, yes = self.judge(distance[:, None]).float().unbind(1)
        return yes - no

    def cost(self, odds: Tensor, matches: Tensor) -> Tensor:
        return binary_correspondence(odds, matches)

    def spaces(self) -> Spaces:
        return cast("Spaces", dict(self.heads.items()))


method = Method(synchronised.view, AVE)
