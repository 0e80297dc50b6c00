"""CLIP: find the other half of each pair among the whole batch, in both directions."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mmssl import dist
from mmssl.losses.infonce import info_nce
from mmssl.nn.joint_space import JointSpace
from mmssl.nn.temperature import LogitScale
from mmssl.types import Batch, Encoder, Loss, Method, Objective, Spaces
from mmssl.views.single import Single


class CLIP(Objective):
    """Symmetric cross-entropy over in-batch pairs of any modalities. Radford et al., ICML 2021.

    embed_dim: size of the joint embedding. hidden: sizes of hidden layers of the heads, linear by default.
    pairs: which modalities to match, all of the run's encoders by default. A sample that lacks one side of a
    pair does not count in it. temperature: where the learnt one starts; max_scale: ceiling of its inverse.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int = 512,
        hidden: tuple[int, ...] = (),
        pairs: list[tuple[str, str]] | None = None,
        temperature: float = 0.07,
        learn_temperature: bool = True,
        max_scale: float = 100.0,
    ) -> None:
        super().__init__(encoders)
        self.space = JointSpace(encoders, embed_dim=embed_dim, hidden=hidden, pairs=pairs)
        self.scale = LogitScale(start=1 / temperature, ceiling=max_scale, learn=learn_temperature)
        self.uses = self.space.modalities

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        embeddings = self.space(encoders, batch)
        scale = self.scale()
        losses, logs = [], {"temperature": 1 / scale.detach()}
        for pair in self.space.match(embeddings, batch):
            each = info_nce(pair.queries, pair.keys, scale=scale, positives=pair.positives, keep=pair.keep)
            losses.append(dist.mean(each, pair.valid))
            logs[f"loss_{pair.name}"] = losses[-1].detach()
        return Loss(torch.stack(losses).mean(), logs, {name: x.detach() for name, x in embeddings.items()})

    def after_step(self, encoders: Mapping[str, Encoder], progress: float) -> None:
        self.scale.clamp()

    def spaces(self) -> Spaces:
        return self.space.spaces()


method = Method(Single, CLIP)
