"""SigLIP: judge every pair in the batch on its own, match or not, by a sigmoid."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mmssl import dist
from mmssl.losses.sigmoid import pairwise_sigmoid
from mmssl.nn.joint_space import JointSpace
from mmssl.nn.temperature import LogitScale
from mmssl.types import Batch, Encoder, Loss, Method, Objective, Spaces
from mmssl.views.single import Single


class SigLIP(Objective):
    """Pairwise sigmoid loss over in-batch pairs of any modalities. Zhai et al., ICCV 2023.

    embed_dim, hidden, pairs: as in CLIP. scale, bias: where the learnt ones start.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 512,
        hidden: tuple[int, ...] = (),
        pairs: list[tuple[str, str]] | None = None,
        scale: float = 10.0,
        bias: float = -10.0,
        max_scale: float = 100.0,
    ) -> None:
        super().__init__(encoders)
        self.space = JointSpace(encoders, embed_dim=embed_dim, hidden=hidden, pairs=pairs)
        self.scale = LogitScale(start=scale, ceiling=max_scale)
        self.bias = torch.nn.Parameter(torch.tensor(bias))
        self.uses = self.space.modalities

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        embeddings = self.space(encoders, batch)
        scale = self.scale()
        logs = {"temperature": 1 / scale.detach(), "bias": self.bias.detach().clone()}
        losses = []
        for pair in self.space.match(embeddings, batch, both=False):
            each = pairwise_sigmoid(
                pair.queries, pair.keys, scale=scale, bias=self.bias, positives=pair.positives, keep=pair.keep
            )
            losses.append(dist.mean(each, pair.valid))
            logs[f"loss_{pair.name}"] = losses[-1].detach()
        return Loss(torch.stack(losses).mean(), logs, {name: x.detach() for name, x in embeddings.items()})

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.scale.clamp()

    def spaces(self) -> Spaces:
        return self.space.spaces()


method = Method(Single, SigLIP)
