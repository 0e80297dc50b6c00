"""Any backbone of timm for images, by its name there: timm:resnet18, timm:vit_small_patch16_224."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmssl.errors import UserError, did_you_mean
from mmssl.nn.normalize import pixel_normalize
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Encoder, Features

# What timm.create_model takes that is said otherwise here.
INSTEAD = {
    "in_chans": "in_channels",
    "num_classes": "no classifier: features are what it gives",
    "checkpoint_path": "train.start",
    "pretrained_cfg": "the weights' name behind the model's, as in vit_base_patch16_224.mae",
    "pretrained_cfg_overlay": "train.start, mean and std",
    "features_only": "the model's features, which every encoder gives",
    "scriptable": "`mmssl export`",
    "exportable": "`mmssl export`",
    "cache_dir": "the variable HF_HOME",
}
FREE = {"dynamic_img_size": "dynamic_img_size: true", "strict_img_size": "strict_img_size: false"}


class Timm(Encoder):
    """Pools as the timm model itself does before its classifier; size, crop and statistics are its own too.

    Features have no tokens where timm pools first and widens after, as MobileNetV3 does. Any option that is not among
    these goes to the model as timm has it: img_size, drop_path_rate, global_pool, init_values, ...

    variant: timm's name of the model.
    pretrained: whether timm's weights are downloaded.
    in_channels: of the image; other than three are not normalised.
    image_size: side in pixels, the model's own by default.
    drop_path: rate of stochastic depth.
    drop_rate: rate of dropout of the pooled features.
    dynamic_img_size: whether a ViT takes images of any size, as multi-crop shows them, and interpolates its places.
    mean, std: per channel, by which the input is normalised; by default the model's own.
    """

    modality = "image"
    library = "timm"

    def __init__(
        self,
        variant: str,
        *,
        pretrained: bool = False,
        in_channels: int = 3,
        image_size: int | None = None,
        drop_path: float = 0.0,
        drop_rate: float = 0.0,
        dynamic_img_size: bool = False,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        **rest: Any,
    ) -> None:
        super().__init__()
        import timm

        for name, instead in INSTEAD.items():
            if name in rest:
                raise UserError(f"timm:{variant} is not given {name!r} here; use {instead}")
        image_size = image_size or rest.pop("img_size", None)
        said = {"drop_path_rate": drop_path, "drop_rate": drop_rate, "dynamic_img_size": dynamic_img_size}
        options = {**{name: value for name, value in said.items() if value}, **rest}
        self.model = _create(variant, pretrained, in_channels, image_size, options)
        self.dim = self.model.head_hidden_size
        data = timm.data.resolve_model_data_config(self.model)
        self.preprocess = ImagePreprocess(
            size=image_size or data["input_size"][-1],
            interpolation=data["interpolation"],
            crop_ratio=data["crop_pct"],
        )
        own = (data["mean"], data["std"]) if in_channels == 3 else (None, None)
        self.normalize = pixel_normalize(in_channels, mean or own[0], std or own[1])
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Features:
        self._check_size(x)
        features = self.model.forward_features(self.normalize(x).contiguous(memory_format=torch.channels_last))
        pooled = self.model.forward_head(features, pre_logits=True)
        return Features(pooled, *self._tokens(features, x))

    def _check_size(self, x: Tensor) -> None:
        """Raises UserError for images of another size than a ViT was built for."""
        patch = getattr(self.model, "patch_embed", None)
        size, shown = getattr(patch, "img_size", None), tuple(x.shape[2:])
        if size is None or not getattr(patch, "strict_img_size", False) or tuple(size) == shown:
            return
        known = inspect.signature(type(self.model)).parameters
        free = [say for name, say in FREE.items() if name in known]
        raise UserError(
            f"{self.name} takes images of {size[0]} x {size[1]} pixels only and is shown {shown[0]} x {shown[1]}, as "
            f"by multi-crop; {f'say {free[0]} of the encoder' if free else 'use a model that takes any, or one size'}"
        )

    def _tokens(self, features: Any, x: Tensor) -> tuple[Tensor | None, tuple[int, int] | None]:
        """Returns the cells (B, N, D) of a map or the patches of a sequence, with their grid."""
        if not isinstance(features, Tensor) or features.ndim not in (3, 4):
            return None, None
        if features.ndim == 4:
            if getattr(self.model, "output_fmt", "NCHW") == "NCHW":
                features = features.permute(0, 2, 3, 1)
            grid, tokens = tuple(features.shape[1:3]), features.flatten(1, 2)
        else:
            tokens = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
            patch: Any = getattr(self.model, "patch_embed", None)
            whole = hasattr(patch, "dynamic_feat_size")
            grid = tuple(patch.dynamic_feat_size(x.shape[2:])) if whole else getattr(patch, "grid_size", (0, 0))
        if tokens.shape[2] != self.dim:
            return None, None
        return tokens, grid if grid[0] * grid[1] == tokens.shape[1] else None

    def published(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Interpolates the places of a ViT where its grid is another."""
        codes, own = weights.get("pos_embed"), getattr(self.model, "pos_embed", None)
        if codes is not None and isinstance(own, Tensor) and codes.ndim == own.ndim == 3 and codes.shape != own.shape:
            from timm.layers import resample_abs_pos_embed

            prefix = 0 if getattr(self.model, "no_embed_class", False) else self.model.num_prefix_tokens
            if math.isqrt(codes.shape[1] - prefix) ** 2 == codes.shape[1] - prefix and codes.shape[2] == own.shape[2]:
                grid = list(self.model.patch_embed.grid_size)
                codes = resample_abs_pos_embed(codes, new_size=grid, num_prefix_tokens=prefix)
                weights = {**weights, "pos_embed": codes}
        return {f"model.{key}": value for key, value in weights.items()}

    @classmethod
    def fetches(cls, options: Mapping[str, Any]) -> str:
        return "timm's weights (pretrained)" if options.get("pretrained") else ""

    def config(self) -> dict[str, Any]:
        config = super().config()
        config["options"]["pretrained"] = False
        return config


def _create(
    variant: str, pretrained: bool, in_channels: int, image_size: int | None, options: Mapping[str, Any]
) -> Any:
    """Builds the timm model without its classifier."""
    import timm

    if not timm.is_model(variant):
        raise UserError(f"timm has no model {variant!r}; {did_you_mean(variant.split('.')[0], timm.list_models())}")
    try:
        settings = timm.models.get_pretrained_cfg(variant)
    except RuntimeError as error:  # weights of a name that timm does not have
        raise UserError(f"timm:{variant}: {_line(error)}") from None
    if image_size and settings is not None and settings.fixed_input_size:
        options = {**options, "img_size": image_size}
    try:
        return timm.create_model(variant, pretrained=pretrained, in_chans=in_channels, num_classes=0, **options)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise UserError(
            f"timm:{variant}: no pretrained weights ({_line(error)}); connect to the network or set pretrained: false"
        ) from error
    except (TypeError, ValueError, AssertionError) as error:
        if not options:
            raise
        raise UserError(
            f"timm:{variant} is not built with {', '.join(options)}: {_line(error)}{_hint(variant, error)}"
        ) from error


def _hint(variant: str, error: Exception) -> str:
    """Returns what an option that a model does not know may be meant to be."""
    import timm

    found = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    module = sys.modules[timm.models.model_entrypoint(variant.partition(".")[0]).__module__]
    kind = getattr(module, found[1], None) if found else None
    return f"; {did_you_mean(found[2], inspect.signature(kind).parameters)}" if found and kind else ""


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


encoder = Timm
