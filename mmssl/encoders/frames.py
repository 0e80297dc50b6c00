"""Any image encoder on the frames of a video, pooled over time."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmssl.encoders.inner import build_inner, inner_config
from mmssl.nn.temporal import Temporal
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Encoder, Features


class Frames(Encoder):
    """Averages the image encoder's features over the frames; its tokens become cells in space and time.

    image: name and options of the image encoder.
    frames: how many a clip has.
    fps: frames a second; without it they span the clip.
    temporal: blocks of convolutions over time, after which moments are weighed instead of averaged, so that the pooled
        feature tells when something happened; the tokens stay each frame's own.
    """

    modality = "video"

    def __init__(self, *, image: dict[str, Any], frames: int = 8, fps: float | None = None, temporal: int = 0) -> None:
        super().__init__()
        self.image = build_inner(image, modality="image", where="frames.image")
        self.dim = self.image.dim
        self.temporal = Temporal(self.dim, depth=temporal) if temporal else None
        self.preprocess = VideoPreprocess(size=self.image.preprocess.size, frames=frames, fps=fps)  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Features:
        batch, _, time = x.shape[:3]  # (B, 3, T, H, W)
        each = self.image(x.transpose(1, 2).flatten(0, 1))
        if self.temporal is None:
            pooled = each.pooled.unflatten(0, (batch, time)).mean(1)
        else:
            cells = each.pooled[:, None] if each.tokens is None else each.tokens
            pooled = self.temporal(cells.unflatten(0, (batch, time)))
        tokens = None if each.tokens is None else each.tokens.unflatten(0, (batch, time)).flatten(1, 2)
        return Features(pooled, tokens, grid=None if each.grid is None else (time, *each.grid))

    def config(self) -> dict[str, Any]:
        config = super().config()
        config["options"]["image"] = inner_config(self.image)
        return config


encoder = Frames
