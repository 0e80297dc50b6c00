"""AVOL-Net: where in the picture is what sounds? Learnt from whether picture and sound belong together."""

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
    """Compares the sound with every cell of the picture; the best one decides. Arandjelovic & Zisserman, ECCV 2018.

    visual: image or video, whose encoder must give cells. embed_dim, hidden: of 1x1 convolutions on the cells, and of
    the layers on the sound. Embeddings have unit length here, and the paper's affine map starts at `scale`.
    pool: "max", the paper's, or "soft", the mean of the odds over cells, which the best dominate: where there are but
    thousands of clips, the maximum never finds out where to look, for it hears of one cell at a time.
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
