"""AVTS: is this sound in sync with this video? Sound of the same video, but shifted, is the hard wrong answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.losses.margin import contrastive_margin
from mmssl.nn.head import Projection
from mmssl.objectives.matching import Matching
from mmssl.types import Encoder, Features, Method, Spaces
from mmssl.views.synchronised import shifted


class AVTS(Matching):
    """Pulls video and sound together where they are in sync, and apart to a margin where not.

    Korbar et al., NeurIPS 2018.

    visual: the encoder that sees, video (which needs `temporal`, or its features do not tell when something happened)
        or image.
    embed_dim: size of the joint embedding.
    hidden: widths of the projections' hidden layers.
    margin: distance beyond which a wrong pair costs nothing.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        visual: Literal["image", "video"] = "video",
        embed_dim: int = 128,
        hidden: tuple[int, ...] = (),
        margin: float = 0.99,
    ) -> None:
        super().__init__(encoders, visual=visual)
        self.margin = margin
        self.heads = nn.ModuleDict(
            {key: Projection(encoders[key].dim, out=embed_dim, hidden=hidden) for key in self.uses}
        )

    def log_odds(self, visual: Features, audio: Features) -> Tensor:
        return self.margin / 2 - F.pairwise_distance(self.heads[self.visual](visual), self.heads["audio"](audio))

    def cost(self, odds: Tensor, matches: Tensor) -> Tensor:
        return contrastive_margin(self.margin / 2 - odds, matches, margin=self.margin)

    def correct(self, own: Tensor, wrong: Tensor) -> Tensor:
        """Whether the own sound is the nearer of the two."""
        return (own > wrong).float()

    def spaces(self) -> Spaces:
        return cast("Spaces", dict(self.heads.items()))


method = Method(shifted, AVTS)
