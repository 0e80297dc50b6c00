"""From features back to pixels, or to whatever else a task asks of every place of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.errors import UserError
from mmssl.types import Features


class Decoder(nn.Module):
    """Draws a map (B, out, height, width), float32, from the encoder's grid, or from one vector per sample.

    widths: channels of its stages; each doubles the sides and convolves (Odena et al., Distill 2016, has why that
        leaves no checkerboard), and what is then missing to the wanted size is interpolated.
    start: the side of the first map, which is made of a vector (B, dim); None starts from the tokens on their grid.
    at_first: about what is drawn before anything is learnt.
    kernel: side of the last convolution; 1 for classes, as Zhang et al., ECCV 2016, have it.
    """

    def __init__(
        self,
        dim: int,
        *,
        out: int = 3,
        widths: Sequence[int] = (256, 128, 64),
        start: int | None = None,
        at_first: float = 0.0,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or (start is not None and start < 1):
            raise UserError(f"a decoder has widths {list(widths)} and start {start}; expected numbers above 0")
        self.start = start
        self.first = nn.Linear(dim, widths[0] * (start or 1) ** 2)
        stages: list[nn.Module] = []
        for inputs, outputs in zip((widths[0], *widths), widths, strict=False):
            stages += [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
            stages += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        last = nn.Conv2d(widths[-1], out, kernel, padding=kernel // 2)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.constant_(last.bias, at_first)  # type: ignore[arg-type]
        self.stages = nn.Sequential(*stages, last)

    def forward(self, seen: Features | Tensor, size: Sequence[int]) -> Tensor:
        drawn: Tensor = self.stages(self._first_map(seen).contiguous(memory_format=torch.channels_last)).float()
        same = tuple(drawn.shape[2:]) == tuple(size)
        return drawn if same else F.interpolate(drawn, tuple(size), mode="bilinear", align_corners=False)

    def _first_map(self, seen: Features | Tensor) -> Tensor:
        if isinstance(seen, Tensor):
            side = self.start or 1
            return self.first(seen).unflatten(1, (-1, side, side))
        if seen.tokens is None or seen.grid is None:
            raise UserError("the task draws from cells, but this encoder gives no grid; choose one such as convnet")
        return self.first(seen.tokens).mT.unflatten(2, seen.grid)
