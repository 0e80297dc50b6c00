"""A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` opens, or the hub's "hf-hub:NAME"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch

from mmssl.checkpoint import save_weights
from mmssl.encoders.timm import Timm
from mmssl.errors import UserError
from mmssl.exports.described import statistics_of
from mmssl.exports.plain import Plain
from mmssl.files import write_atomically
from mmssl.options import options_of
from mmssl.transforms.image import ImagePreprocess


def write(plain: Plain, folder: Path) -> Any:
    """Writes config.json, whose pretrained_cfg says how images are prepared, and model.safetensors."""
    import timm

    encoder = plain.encoder
    if not isinstance(encoder, Timm):
        raise UserError(
            f"{encoder.name} is no model of timm, which opens those of timm:VARIANT only; export it as onnx"
        )
    variant, model = encoder.name.partition(":")[2].partition(".")[0], encoder.model
    save_weights(model.state_dict(), folder / "model.safetensors")
    write_atomically(folder / "config.json", json.dumps(_config(encoder, variant), indent=2).encode())
    opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(opened)
    mean, std = (torch.tensor(data[name])[:, None, None] for name in ("mean", "std"))
    return lambda x: [opened((x - mean) / std)]


def _config(encoder: Timm, variant: str) -> dict[str, Any]:
    model, preprocess = encoder.model, cast("ImagePreprocess", encoder.preprocess)
    mean, std = statistics_of(encoder) or ([], [])
    options = {name: value for name, value in encoder.options.items() if name not in options_of(Timm)}
    fixed = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if fixed is not None:
        options["img_size"] = list(fixed)
    if encoder.options.get("dynamic_img_size"):
        options["dynamic_img_size"] = True
    prepared = {
        "input_size": [len(mean), preprocess.size, preprocess.size],
        "interpolation": preprocess.interpolation,
        "crop_pct": preprocess.crop_ratio,
        "crop_mode": "squash" if preprocess.resize == "squash" else "center",
        "mean": mean,
        "std": std,
        "num_classes": 0,
    }
    own = {
        name: model.pretrained_cfg.get(name) for name in ("first_conv", "classifier", "fixed_input_size", "pool_size")
    }
    return {
        "architecture": variant,
        "num_classes": 0,
        "num_features": encoder.dim,
        "global_pool": getattr(model, "global_pool", None)
        if isinstance(getattr(model, "global_pool", None), str)
        else None,
        "model_args": {**options, "in_chans": len(mean)},
        "pretrained_cfg": {**{name: value for name, value in own.items() if value is not None}, **prepared},
    }
