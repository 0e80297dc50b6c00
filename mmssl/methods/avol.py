"""AVOL-Net: where in the image is what sounds? Learnt from whether image and sound belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mmssl.losses.binary import binary_correspondence
from mmssl.nn.head import Projection, similarity_map
from mmssl.objectives.matching import Matching
from mmssl.types import Encoder, Features, Method, Spaces
from mmssl.views import synchronised


class AVOL(Matching):
    """Compares the sound with every cell of the image; the best one decides. Arandjelovic & Zisserman, ECCV 2018.

    visual: the encoder that sees, image or video; it must give a grid of tokens.
    embed_dim: size of the embeddings that are compared.
    hidden: widths of the hidden layers, 1x1 convolutions on the cells, before that.
    scale: where the learnt scale of the cosines starts; embeddings have unit length here.
    pool: over cells: "max", the paper's, or "soft", the mean of the odds, which the best cells dominate: with only
        thousands of clips, the maximum never finds out where to look, for one cell at a time gets a gradient.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        visual: Literal["image", "video"] = "image",
        embed_dim: int = 128,
        hidden: tuple[int, ...] = (128,),
        scale: float = 10.0,
        pool: Literal["max", "soft"] = "max",
    ) -> None:
        super().__init__(encoders, visual=visual)
        self.heads = nn.ModuleDict(
            {key: Projection(encoders[key].dim, out=embed_dim, hidden=hidden) for key in self.uses}
        )
        self.scale = nn.Parameter(torch.tensor(scale))
        self.bias = nn.Parameter(torch.tensor(-scale / 2 if pool == "max" else 0.0))
        self.pool = pool

    def similarity_map(self, visual: Features, audio: Features) -> Tensor:
        """Returns the cosine of the sound with every cell: (B, H, W), or (B, T, H, W) of a film."""
        heads = self.spaces()
        return similarity_map(visual, heads["audio"](audio), heads[self.visual])

    def log_odds(self, visual: Features, audio: Features) -> Tensor:
        cells = self.scale * self.similarity_map(visual, audio).flatten(1) + self.bias  # (B, N)
        if self.pool == "max":
            return cells.amax(1)  # the sigmoid rises, so its maximum is theirs
        return cells.logsumexp(1) - math.log(cells.shape[1])

    def cost(self, odds: Tensor, matches: Tensor) -> Tensor:
        return binary_correspondence(odds, matches)

    def spaces(self) -> Spaces:
        return cast("Spaces", dict(self.heads.items()))


method = Method(synchronised.view, AVOL)
