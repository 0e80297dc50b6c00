"""SigLIP: judge every pair in the batch on its own, match or not, by a sigmoid."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmssl.losses.contrast import Contrast
from mmssl.losses.sigmoid import pairwise_sigmoid
from mmssl.nn.temperature import LogitScale
from mmssl.objectives.joint_space import JointSpace
from mmssl.types import Encoder, Method
from mmssl.views import single


class SigLIP(JointSpace):
    """Pairwise sigmoid loss over in-batch pairs of any modalities. Zhai et al., ICCV 2023.

    scale: of the similarities, where the learnt one starts.
    bias: of the logits, where the learnt one starts.
    max_scale: ceiling of the scale.
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
        bf16: bool = False,
    ) -> None:
        start = LogitScale(start=scale, ceiling=max_scale)
        super().__init__(encoders, scale=start, embed_dim=embed_dim, hidden=hidden, pairs=pairs, bf16=bf16)
        self.bias = torch.nn.Parameter(torch.tensor(bias))

    def costs(self, contrast: Contrast) -> tuple[Tensor, ...]:
        return (pairwise_sigmoid(contrast, bias=self.bias),)  # the sum over all pairs is the same from either side


method = Method(single.view, SigLIP)
