"""Optical flow as an image of two channels for each step in time, through any image encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mmssl.encoders.inner import build_inner, inner_config
from mmssl.errors import UserError
from mmssl.nn.raft import Raft
from mmssl.transforms.flow import FlowPreprocess
from mmssl.types import Encoder, Features


class Flow(Encoder):
    """Reads the flow of a film, (B, 2, frames, H, W) in pixels; its tokens and grid are those of the image encoder.

    The steps in time are channels, as in the temporal stream of Simonyan & Zisserman, NeurIPS 2014.

    backbone: name and options of an image encoder, whose channels are set to 2 * frames.
    frames: steps in time.
    fps: of them in a second.
    centre: take the mean flow of each step away, which is mostly the camera's.
    by: dis is OpenCV's dense inverse search, in the data workers; raft_small and raft_large are torchvision's RAFT, on
        the device, whose weights are saved with the encoder.
    weights: file of RAFT's weights, a state_dict that torch or safetensors saved.
    """

    modality = "flow"

    def __init__(
        self,
        *,
        backbone: dict[str, Any] | None = None,
        frames: int = 10,
        fps: float = 25.0,
        centre: bool = True,
        by: Literal["dis", "raft_small", "raft_large"] = "dis",
        weights: str | None = None,
    ) -> None:
        super().__init__()
        node = {"name": "convnet"} if backbone is None else backbone
        if node.get("in_channels", 2 * frames) != 2 * frames:
            raise UserError(
                f"flow.backbone has in_channels {node['in_channels']}; leave it out, {frames} frames say it"
            )
        self.backbone = build_inner(node | {"in_channels": 2 * frames}, modality="image", where="flow.backbone")
        self.dim, self.centre = self.backbone.dim, centre
        self.raft = None if by == "dis" else Raft("small" if by == "raft_small" else "large")
        self.knows_raft = weights is not None
        if self.raft is not None and weights is not None:
            self.raft.load(weights)
        elif weights is not None:
            raise UserError("flow.weights are those of RAFT; set by to raft_small or raft_large, or leave weights out")
        size: int = self.backbone.preprocess.size  # type: ignore[attr-defined]
        self.preprocess = FlowPreprocess(size=size, frames=frames, fps=fps, by="raft" if self.raft else "dis")

    def forward(self, x: Tensor) -> Features:
        if self.raft is not None:
            if not self.knows_raft:
                raise UserError("flow finds flow by RAFT, but has none of its weights; set weights to a file of them")
            x = self.raft(x)
        x = x.float()
        if self.centre:
            x = x - x.mean(dim=(3, 4), keepdim=True)
        features: Features = self.backbone(x.transpose(1, 2).flatten(1, 2))
        return features

    @classmethod
    def fetches(cls, options: Mapping[str, Any]) -> str:
        return f"the weights {options['weights']}" if options.get("weights") is not None else ""

    def load_files(self, folder: Path) -> None:
        super().load_files(folder)
        self.knows_raft = True  # its weights stand among the encoder's

    def take_fixed(self, trained: Encoder) -> None:
        if isinstance(trained, Flow):
            self.raft, self.knows_raft = trained.raft, trained.knows_raft

    def config(self) -> dict[str, Any]:
        config = super().config()
        config["options"]["backbone"] = inner_config(self.backbone)
        config["options"].pop("weights", None)
        return config


encoder = Flow
