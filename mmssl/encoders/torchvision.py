"""Video networks of torchvision: r3d_18, mc3_18, r2plus1d_18, s3d, mvit_v1_b, mvit_v2_s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from mmssl.errors import UserError, did_you_mean
from mmssl.nn.normalize import Normalize
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Encoder, Features

KINETICS = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
PLAIN = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
VARIANTS = {  # side in pixels, mean and std, size of the features
    "r3d_18": (112, KINETICS, 512),
    "mc3_18": (112, KINETICS, 512),
    "r2plus1d_18": (112, KINETICS, 512),
    "s3d": (224, KINETICS, 1024),
    "mvit_v1_b": (224, PLAIN, 768),
    "mvit_v2_s": (224, PLAIN, 768),
}


class TorchvisionVideo(Encoder):
    """R3D and R(2+1)D: Tran et al., CVPR 2018; S3D: Xie et al., ECCV 2018; MViT: Fan et al., ICCV 2021.

    Pools the mean of the last map, and the class token of MViT.

    variant: torchvision's name of the network.
    weights: torchvision's name of a set of weights, as KINETICS400_V1, downloaded; none by default.
    image_size: side in pixels, the model's own by default.
    frames: how many a clip has.
    fps: frames a second; without it they span the clip.
    """

    modality = "video"

    def __init__(
        self,
        variant: Literal["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "mvit_v2_s"],
        *,
        weights: str | None = None,
        image_size: int | None = None,
        frames: int = 16,
        fps: float | None = None,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise UserError(f"torchvision has no video network {variant!r} here; {did_you_mean(variant, VARIANTS)}")
        side, statistics, self.dim = VARIANTS[variant]
        self.preprocess = VideoPreprocess(size=image_size or side, frames=frames, fps=fps)
        self.normalize = Normalize(*statistics)
        self.is_mvit = variant.startswith("mvit")
        if self.is_mvit and (image_size or side, frames) != (side, 16):
            raise UserError(f"torchvision:{variant} takes 16 frames of {side} pixels only; leave size and frames out")
        self.model = _create(variant, weights)

    def forward(self, x: Tensor) -> Features:
        x = self.normalize(x)  # (B, 3, T, H, W)
        if self.is_mvit:
            return self._mvit(x)
        x = self.model(x)
        return Features(x.mean((2, 3, 4)), x.flatten(2).transpose(1, 2), grid=tuple(x.shape[2:]))

    def _mvit(self, x: Tensor) -> Features:
        model = self.model
        x = model.conv_proj(x).flatten(2).transpose(1, 2)
        x = model.pos_encoding(x)
        grid = (model.pos_encoding.temporal_size, *model.pos_encoding.spatial_size)
        for block in model.blocks:
            x, grid = block(x, grid)
        x = model.norm(x)
        return Features(x[:, 0], x[:, 1:], grid=tuple(grid))

    def published(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        parts = {"features": "model"} | {name: f"model.{place}" for place, name in enumerate(STAGES)}
        split = ((key.partition("."), value) for key, value in weights.items())
        return {f"{parts.get(first, f'model.{first}')}.{rest}": value for (first, _, rest), value in split}

    @classmethod
    def fetches(cls, options: Mapping[str, Any]) -> str:
        return "torchvision's weights" if options.get("weights") else ""

    def config(self) -> dict[str, Any]:
        config = super().config()
        config["options"]["weights"] = None
        return config


def _create(variant: str, weights: str | None) -> Any:
    """Builds the torchvision model up to its last map."""
    from torchvision.models import get_model

    try:
        model = get_model(variant, weights=weights)
    except (KeyError, ValueError, OSError) as error:
        raise UserError(
            f"torchvision:{variant}: cannot get the weights {weights!r} ({error}); "
            "leave `weights` out or connect to the network"
        ) from error
    if variant.startswith("mvit"):
        model.head = nn.Identity()
        return model
    if variant == "s3d":
        return model.features
    return nn.Sequential(*(getattr(model, name) for name in STAGES))


encoder = TorchvisionVideo
