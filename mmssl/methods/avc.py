"""L3-Net: do this image and this sound come from one video? Judged from both towers, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from mmssl.losses.binary import binary_correspondence
from mmssl.objectives.matching import Matching
from mmssl.types import Encoder, Features, Method
from mmssl.views import synchronised


class AVC(Matching):
    """Concatenates both towers' features, then two layers and two classes. Arandjelovic & Zisserman, ICCV 2017.

    visual: the encoder that sees, image or video.
    hidden: width of the layer between both towers' features and the answer.
    """

    def __init__(
        self, encoders: Mapping[str, Encoder], *, visual: Literal["image", "video"] = "image", hidden: int = 128
    ) -> None:
        super().__init__(encoders, visual=visual)
        width = encoders[visual].dim + encoders["audio"].dim
        self.judge = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 2))

    def log_odds(self, visual: Features, audio: Features) -> Tensor:
        no, yes = self.judge(torch.cat([visual.pooled, audio.pooled], dim=1)).float().unbind(1)
        return yes - no

    def cost(self, odds: Tensor, matches: Tensor) -> Tensor:
        return binary_correspondence(odds, matches)


method = Method(synchronised.view, AVC)
