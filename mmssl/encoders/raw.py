"""The raw input as features, without anything learnt: the baseline that an encoder has to beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.encoders.mel import LogMel
from mmssl.errors import UserError
from mmssl.numerics.color import as_unit
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.points import PointsPreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Encoder, Features, Ragged

PREPROCESS = {"image": ImagePreprocess, "video": VideoPreprocess, "audio": AudioPreprocess, "points": PointsPreprocess}


class Raw(Encoder):
    """Describes images by their pixels, and other modalities by a few statistics.

    Videos by their mean frame and its change at 16 x 16, sounds by the mean and deviation of 64 mel bands over time,
    clouds by the extents along their principal axes. `Raw("image")` and so on; it has no weights.

    variant: the modality.
    size: side of an image in pixels.
    seconds: length of a sound.
    """

    def __init__(
        self, variant: Literal["image", "video", "audio", "points"], *, size: int = 32, seconds: float = 1.0
    ) -> None:
        super().__init__()
        if variant not in PREPROCESS:
            raise UserError(f"raw knows no {variant!r}; expected one of {', '.join(PREPROCESS)}")
        self.modality = variant
        given = {"image": {"size": size}, "video": {"size": size}, "audio": {"seconds": seconds}}
        self.preprocess = PREPROCESS[variant](**given.get(variant, {}))  # type: ignore[arg-type]
        self.dim = {"image": 3072, "video": 1536, "audio": 128, "points": 3}[variant]
        self.register_buffer("here", torch.zeros(()), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it was put."""
        return self.get_buffer("here").device

    def forward(self, x: Any) -> Features:
        """Takes what preprocessing of its modality collates."""
        describe: dict[str, Callable[[Any], Tensor]] = {
            "image": _picture, "video": _film, "audio": self._sound, "points": _cloud,
        }  # fmt: skip
        return Features(describe[self.modality](x))

    def _sound(self, x: Tensor) -> Tensor:
        rate = self.preprocess.config()["sample_rate"]
        mel = LogMel(rate, 64, window=0.025, hop=0.01, low=0.0, high=None).to(x.device)(x)
        return torch.cat([mel.mean(dim=2), mel.std(dim=2)], dim=1)


def _picture(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(as_unit(x), 32).flatten(1)


def _film(x: Tensor) -> Tensor:
    x = as_unit(x)
    change = x.diff(dim=2).abs().mean(dim=2) if x.shape[2] > 1 else torch.zeros_like(x[:, :, 0])
    return torch.cat([F.adaptive_avg_pool2d(part, 16).flatten(1) for part in (x.mean(dim=2), change)], dim=1)


def _cloud(x: Ragged) -> Tensor:
    """Returns the standard deviations along the principal axes, descending, (B, 3)."""
    clouds = [rows[:, :3].double() for rows in x.split()]
    spreads = [torch.linalg.eigvalsh((c - c.mean(0)).T @ (c - c.mean(0)) / len(c)).clamp(min=0).sqrt() for c in clouds]
    return torch.stack(spreads).flip(1).float()


encoder = Raw
