"""CLIP: find the other half of each pair among the whole batch, in both directions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce_both_ways
from mmssl.nn.temperature import LogitScale
from mmssl.objectives.joint_space import JointSpace
from mmssl.types import Encoder, Method
from mmssl.views import single


class CLIP(JointSpace):
    """Symmetric cross-entropy over in-batch pairs of any modalities. Radford et al., ICML 2021.

    temperature: of the softmax, where the learnt one starts.
    learn_temperature: whether the temperature is learnt.
    max_scale: ceiling of the temperature's inverse.
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
        intra_modal: float = 0.0,
        bf16: bool = False,
    ) -> None:
        scale = LogitScale(start=1 / temperature, ceiling=max_scale, learn=learn_temperature)
        super().__init__(
            encoders,
            scale=scale,
            embed_dim=embed_dim,
            hidden=hidden,
            pairs=pairs,
            intra_modal=intra_modal,
            bf16=bf16,
        )

    def costs(self, contrast: Contrast) -> tuple[Tensor, ...]:
        return info_nce_both_ways(contrast)


method = Method(single.view, CLIP)
