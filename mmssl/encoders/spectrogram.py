"""Sound as an image: a log spectrogram, of mel bands or linear, through any image encoder of one channel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmssl.encoders.inner import build_inner, inner_config
from mmssl.encoders.mel import LogLinear, LogMel
from mmssl.errors import UserError
from mmssl.nn.temporal import Temporal
from mmssl.transforms.audio import AudioPreprocess
from mmssl.types import Features, Patches, TokenEncoder


class Spectrogram(TokenEncoder):
    """Log spectrogram, then an image encoder; its tokens lie on a grid of frequency by time.

    The front end of L3-Net is sample_rate 48000, seconds 1, mels null, window 0.01, hop 0.005: 257 x 199. With vit as
    its backbone, patches of the spectrogram can be masked.

    backbone: name and options of an image encoder with in_channels 1.
    sample_rate: in Hz.
    seconds: length of what is heard.
    mels: how many filters, null for linear frequency.
    window, hop: in seconds.
    fft: samples of the transform, by default the power of two that holds the window.
    low, high: edges of the filters in Hz.
    normalize: by each example's mean and standard deviation, or by the fixed `mean` and `std`.
    mean, std: of log power.
    temporal: blocks of convolutions over time that make the pooled feature tell when something happened, as `frames`
        has them.
    """

    modality = "audio"

    def __init__(
        self,
        *,
        backbone: dict[str, Any] | None = None,
        sample_rate: int = 16_000,
        seconds: float = 2.0,
        mels: int | None = 64,
        window: float = 0.025,
        hop: float = 0.01,
        fft: int | None = None,
        low: float = 20.0,
        high: float | None = None,
        normalize: Literal["example", "fixed"] = "example",
        mean: float = -4.0,
        std: float = 4.0,
        temporal: int = 0,
    ) -> None:
        super().__init__()
        node = {"name": "convnet", "in_channels": 1} if backbone is None else backbone
        self.backbone = build_inner(node, modality="image", where="spectrogram.backbone")
        if node.get("in_channels") != 1:
            raise UserError("spectrogram.backbone reads one channel; add in_channels: 1 to its options")
        self.dim = self.backbone.dim
        self.preprocess = AudioPreprocess(sample_rate=sample_rate, seconds=seconds)
        self.log_power: nn.Module = (
            LogLinear(sample_rate, window=window, hop=hop, fft=fft)
            if mels is None
            else LogMel(sample_rate, mels, window=window, hop=hop, low=low, high=high, fft=fft)
        )
        self.temporal = Temporal(self.dim, depth=temporal) if temporal else None
        self.normalize, self.mean, self.std = normalize, mean, std

    def forward(self, x: Tensor) -> Features:
        features: Features = self.backbone(self._picture(x))
        if self.temporal is None:
            return features
        if features.tokens is None or features.grid is None:
            raise UserError("spectrogram.temporal needs cells, but the backbone gives none; choose one such as convnet")
        cells = features.tokens.unflatten(1, features.grid).transpose(1, 2)  # (B, T, F, D)
        return replace(features, pooled=self.temporal(cells))

    def _picture(self, x: Tensor) -> Tensor:
        """Makes the normalised spectrogram (B, 1, F, T)."""
        with torch.autocast(x.device.type, enabled=False):
            x = self.log_power(x)[:, None]
            if self.normalize == "example":
                return (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1e-3)
            return (x - self.mean) / self.std

    @property
    def cell(self) -> tuple[int, ...]:
        return self._masked.cell

    @property
    def patch_dim(self) -> int:
        return self._masked.patch_dim

    def patches(self, x: Tensor) -> Patches:
        return self._masked.patches(self._picture(x))

    def joined(self, patches: Patches) -> Tensor:
        return self._masked.joined(patches)

    def tokenize(self, patches: Patches, *, mask: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
        return self._masked.tokenize(patches, mask=mask, mask_token=mask_token)

    def encode_tokens(self, tokens: Tensor) -> Features:
        return self._masked.encode_tokens(tokens)

    @property
    def _masked(self) -> TokenEncoder:
        """The backbone, if its tokens can be masked; UserError if not."""
        if not isinstance(self.backbone, TokenEncoder):
            raise UserError(
                f"spectrogram.backbone {self.backbone.name!r} has no tokens to mask; choose one such as vit"
            )
        if self.temporal is not None:
            raise UserError("spectrogram.temporal needs every cell, and a masked method drops some; leave it out")
        return self.backbone

    def config(self) -> dict[str, Any]:
        config = super().config()
        config["options"]["backbone"] = inner_config(self.backbone)
        return config


encoder = Spectrogram
