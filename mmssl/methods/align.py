"""ALIGN: find the other half of each noisy pair of image and text among the whole batch, with smoothed labels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmssl.errors import UserError
from mmssl.losses.contrast import Contrast
from mmssl.losses.infonce import info_nce_both_ways
from mmssl.objectives.joint_space import JointSpace, inverse_of
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Encoder, Method
from mmssl.views.template import Views


class ALIGN(JointSpace):
    """Cross-entropy with smoothed labels over in-batch pairs, both ways. Jia et al., ICML 2021.

    The joint space is that of the image encoder's pooled features; a linear layer takes the text's to it. Written from
    the paper's formulas; its code is not public.

    smoothing: share of the label that is spread over the batch.
    temperature: of the softmax, where the learnt one starts; by default that of the encoders' own two-tower model, else
        1.
    max_scale: ceiling of the temperature's inverse; by default 100, or where a pretrained one starts above that.
    """

    modalities = ("image", "text")

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        smoothing: float = 0.1,
        temperature: float | None = None,
        max_scale: float | None = None,
        bf16: bool = False,
    ) -> None:
        if not 0 <= smoothing < 1:
            raise UserError(f"smoothing is {smoothing}; expected a share from 0 to below 1")
        joint = encoders["image"].joint if "image" in encoders else None
        size = encoders["image"].dim if "image" in encoders and joint is None else None
        headless = ("image",) if joint is None else ()
        super().__init__(encoders, embed_dim=size, hidden=(), pairs=[self.modalities], headless=headless, bf16=bf16)
        self.smoothing = smoothing
        self.scale = self.begin_scale(inverse_of(temperature), default=1.0, ceiling=max_scale)

    def costs(self, contrast: Contrast) -> tuple[Tensor, ...]:
        return info_nce_both_ways(contrast, smoothing=self.smoothing)


# The paper scales to 346 x 346 and cuts 289 x 289; here a square of that share is cut, so that nothing is stretched.
SHARE = (289 / 346) ** 2

method = Method(Views(1, image=[Crop(scale=(SHARE, SHARE), ratio=(1.0, 1.0)), Flip()]), ALIGN)
