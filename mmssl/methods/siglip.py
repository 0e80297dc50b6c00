"""SigLIP: judge every pair in the batch on its own, match or not, by a sigmoid."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmssl.losses.contrast import Contrast
from mmssl.losses.sigmoid import pairwise_sigmoid
from mmssl.objectives.joint_space import JointSpace
from mmssl.types import Encoder, Method
from mmssl.views import single


class SigLIP(JointSpace):
    """Pairwise sigmoid loss over in-batch pairs of any modalities. Zhai et al., ICCV 2023.

    scale: of the similarities, where the learnt one starts; by default that of the encoders' own two-tower model, else
        10.
    bias: of the logits, where the learnt one starts; by default that of the encoders' own two-tower model, else -10.
    max_scale: ceiling of the scale; by default 100, or where a pretrained one starts above that.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int | None = None,
        hidden: tuple[int, ...] = (),
        pairs: list[tuple[str, str]] | None = None,
        headless: tuple[str, ...] = (),
        scale: float | None = None,
        bias: float | None = None,
        max_scale: float | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__(encoders, embed_dim=embed_dim, hidden=hidden, pairs=pairs, headless=headless, bf16=bf16)
        self.scale = self.begin_scale(scale, default=10.0, ceiling=max_scale)
        if bias is None:
            bias = self.brought.bias if self.brought else None
        self.bias = torch.nn.Parameter(torch.tensor(-10.0 if bias is None else bias))

    def costs(self, contrast: Contrast) -> tuple[Tensor, ...]:
        return (pairwise_sigmoid(contrast, bias=self.bias),)  # the sum over all pairs is the same from either side


method = Method(single.view, SigLIP)
