"""Only the lightness of an image, or only its colour, through any image encoder."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from mmssl.encoders.inner import build_inner, inner_config
from mmssl.numerics.color import lab
from mmssl.types import Encoder, Features


class Lab(Encoder):
    """Turns images to CIE Lab and shows the encoder one part, as three channels in about [0, 1].

    part: lightness, L thrice; or color, a and b and an even third.
    image: name and options of the image encoder.
    """

    modality = "image"

    def __init__(self, *, part: Literal["lightness", "color"], image: dict[str, Any]) -> None:
        super().__init__()
        self.part = part
        self.image = build_inner(image, modality="image", where="lab.image")
        self.dim, self.preprocess = self.image.dim, self.image.preprocess

    def forward(self, x: Tensor) -> Features:
        lightness, color = lab(x).split((1, 2), dim=1)
        if self.part == "lightness":
            shown = (lightness / 100).expand(-1, 3, *lightness.shape[2:])
        else:
            shown = 0.5 + torch.cat([color, torch.zeros_like(lightness)], dim=1) / 200
        features: Features = self.image(shown)
        return features

    def config(self) -> dict[str, Any]:
        config = super().config()
        config["options"]["image"] = inner_config(self.image)
        return config


encoder = Lab
