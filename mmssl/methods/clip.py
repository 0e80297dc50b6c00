"""CLIP: find the other half of each pair among the whole batch, in both directions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce_both_ways
from mmssl.objectives.joint_space import JointSpace, inverse_of
from mmssl.types import Encoder, Method
from mmssl.views import single


class CLIP(JointSpace):
    """Symmetric cross-entropy over in-batch pairs of any modalities. Radford et al., ICML 2021.

    temperature: of the softmax, where the learnt one starts; by default that of the encoders' own two-tower model, else
        0.07.
    learn_temperature: whether the temperature is learnt.
    max_scale: ceiling of the temperature's inverse; by default 100, or where a pretrained one starts above that.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        embed_dim: int | None = None,
        hidden: tuple[int, ...] = (),
        pairs: list[tuple[str, str]] | None = None,
        headless: tuple[str, ...] = (),
        temperature: float | None = None,
        learn_temperature: bool = True,
        max_scale: float | None = None,
        intra_modal: float = 0.0,
        bf16: bool = False,
    ) -> None:
        super().__init__(
            encoders,
            embed_dim=embed_dim,
            hidden=hidden,
            pairs=pairs,
            headless=headless,
            intra_modal=intra_modal,
            bf16=bf16,
        )
        self.scale = self.begin_scale(
            inverse_of(temperature), default=1 / 0.07, ceiling=max_scale, learn=learn_temperature
        )

    def costs(self, contrast: Contrast) -> tuple[Tensor, ...]:
        return info_nce_both_ways(contrast)


method = Method(single.view, CLIP)
