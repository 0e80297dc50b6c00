"""Encoders: one file per family, every one returns Features."""

from __future__ import annotations

from typing import Any

from mmssl import names
from mmssl.types import Encoder


def create_encoder(name: str, *, where: str = "", trust_code: bool = True, **options: Any) -> Encoder:
    """Makes an encoder by its name, with fresh weights unless its options say otherwise.

    `create_encoder("convnet", image_size=32)`, `create_encoder("timm:resnet18", pretrained=True)`,
    `create_encoder("mypkg.mine:MyEncoder")`. where: what errors point at. Raises UserError for an unknown
    name or option.
    """
    encoder: Encoder = names.build("encoders", name, where=where, trust_code=trust_code, **options)
    encoder.name, encoder.options = name, options
    return encoder
