"""Optical flow by torchvision's RAFT, whose weights come from a file. Teed & Deng, ECCV 2020."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.errors import UserError

SIDE, CELL = 128, 8  # pixels that images must have at least, and of which their sides must be whole multiples
AT_ONCE = 2**21  # pixels of the images between which flow is found at a time


class Raft(nn.Module):
    """Finds the flow (B, 2, T, H, W) between images (B, 3, T + 1, H, W) uint8, in pixels to the right and downwards.

    It does not learn. Small images are extended by their edges to 128 pixels.
    """

    def __init__(self, size: Literal["small", "large"]) -> None:
        super().__init__()
        from torchvision.models import optical_flow

        made = optical_flow.raft_small if size == "small" else optical_flow.raft_large
        self.net: nn.Module = made(weights=None, progress=False).requires_grad_(False)
        self.size = size

    def train(self, mode: bool = True) -> Raft:
        return super().train(False)

    def load(self, path: str) -> None:
        """Reads weights that torchvision, or safetensors, saved; UserError where they are none of this size."""
        file = Path(path)
        if not file.is_file():
            raise UserError(f"there are no weights of RAFT at {path}; save the state_dict of torchvision's there")
        try:
            own = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
            self.net.load_state_dict(own)
        except Exception as error:  # both readers raise their own
            detail = " ".join(str(error).split())[:200]
            raise UserError(f"{path} holds no weights of torchvision's raft_{self.size}: {detail}") from error

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        batch, _, count, height, width = images.shape
        down, right = (max(SIDE, -(-side // CELL) * CELL) - side for side in (height, width))
        with torch.autocast(images.device.type, enabled=False):
            x = images.transpose(1, 2).float() / 127.5 - 1  # (B, T + 1, 3, H, W)
            pairs = (part.flatten(0, 1) for part in (x[:, :-1], x[:, 1:]))
            pairs = (F.pad(part, (0, right, 0, down), mode="replicate") for part in pairs)
            several = max(1, AT_ONCE // ((height + down) * (width + right)))
            parts = zip(*(part.split(several) for part in pairs), strict=True)
            found = torch.cat([self.net(one, other)[-1][..., :height, :width] for one, other in parts])
        return found.unflatten(0, (batch, count - 1)).transpose(1, 2)
