"""Sound as a picture: a log-mel spectrogram, made on the device, through any image encoder of one channel."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from mmssl.encoders.inner import build_inner, inner_config
from mmssl.encoders.mel import LogMel
from mmssl.errors import UserError
from mmssl.transforms.audio import AudioPreprocess
from mmssl.types import Encoder, Features


class Spectrogram(Encoder):
    """Log-mel spectrogram, then an image encoder; its tokens lie on a grid of frequency by time.

    backbone: name and options of an image encoder with in_channels 1. sample_rate in Hz; seconds: length of
    what is heard. mels: filters; window, hop in seconds; low, high: edges of the filters in Hz. normalize: by
    each example's mean and standard deviation, or by the fixed mean and std of log mel power.
    """

    modality = "audio"

    def __init__(
        self,
        *,
        backbone: dict[str, Any] | None = None,
        sample_rate: int = 16_000,
        seconds: float = 2.0,
        mels: int = 64,
        window: float = 0.025,
        hop: float = 0.01,
        low: float = 20.0,
        high: float | None = None,
        normalize: Literal["example", "fixed"] = "example",
        mean: float = -4.0,
        std: float = 4.0,
    ) -> None:
        super().__init__()
        node = {"name": "convnet", "in_channels": 1} if backbone is None else backbone
        self.backbone = build_inner(node, modality="image", where="spectrogram.backbone")
        if node.get("in_channels") != 1:
            raise UserError("spectrogram.backbone reads one channel; add in_channels: 1 to its options")
        self.dim = self.backbone.dim
        self.preprocess = AudioPreprocess(sample_rate=sample_rate, seconds=seconds)
        self.log_mel = LogMel(sample_rate, mels, window=window, hop=hop, low=low, high=high)
        self.normalize, self.mean, self.std = normalize, mean, std

    def forward(self, x: Tensor) -> Features:
        with torch.autocast(x.device.type, enabled=False):
            x = self.log_mel(x)[:, None]  # (B, 1, F, T)
            if self.normalize == "example":
                x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1e-3)
            else:
                x = (x - self.mean) / self.std
        return self.backbone(x)

    def config(self) -> dict[str, Any]:
        config = super().config()
        config["options"]["backbone"] = inner_config(self.backbone)
        return config


encoder = Spectrogram
