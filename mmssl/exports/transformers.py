"""A folder that `transformers.AutoModel.from_pretrained` opens, with its processor or tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.checkpoint import save_weights
from mmssl.encoders.transformers import AST, RESAMPLING, TOWERS, Transformers
from mmssl.encoders.vit import VisionTransformer
from mmssl.errors import UserError
from mmssl.exports.described import statistics_of
from mmssl.exports.plain import Plain
from mmssl.files import write_atomically
from mmssl.types import Encoder, Features


def write(plain: Plain, folder: Path) -> Any:
    """Writes the model, and what goes before it: preprocessor_config.json, or a tokenizer."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    encoder = plain.encoder
    if isinstance(encoder, VisionTransformer):
        _write_vit(encoder, folder)
    elif not isinstance(encoder, Transformers):
        raise UserError(f"{encoder.name} has no place in transformers, which opens its own and our vit; use onnx")
    elif encoder.family in TOWERS:
        raise UserError(f"a tower of {encoder.family} is no model by itself; give the run, with --space")
    else:
        settings, embeddings = encoder.model.config, getattr(encoder.model, "embeddings", None)
        if getattr(settings, "use_mask_token", False) and getattr(embeddings, "mask_token", None) is None:
            settings.use_mask_token = False  # it was dropped as features do not depend on it
        encoder.model.save_pretrained(folder)
    _write_before(encoder, folder)
    opened = AutoModel.from_pretrained(folder).eval()
    return lambda x: [_pooled(encoder, opened, x)]


def _pooled(encoder: Encoder, opened: Any, x: Any) -> Tensor:
    """Returns the features of a batch as the encoder pools them, of what the opened model says."""
    if isinstance(encoder, VisionTransformer):
        hidden = opened(encoder.normalize(x)).last_hidden_state
        return hidden[:, 0] if encoder.class_token is not None else hidden[:, 1:].mean(1)
    assert isinstance(encoder, Transformers), "others are refused"
    own, encoder.model = encoder.model, opened
    try:
        features: Features = encoder(x)
    finally:
        encoder.model = own
    return features.pooled


def _write_before(encoder: Encoder, folder: Path) -> None:
    """Writes how raw inputs become the model's, in the words of its own processor."""
    if encoder.modality == "text":
        _write_tokenizer(encoder.preprocess, folder)
        return
    values = _processor(encoder)
    write_atomically(folder / "preprocessor_config.json", json.dumps(values, indent=2).encode())


def _write_tokenizer(preprocess: Any, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = preprocess.tokenizer
    pad = tokenizer.id_to_token(preprocess.pad_id)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, model_max_length=preprocess.context_length
    ).save_pretrained(folder)


def _processor(encoder: Encoder) -> dict[str, Any]:
    preprocess: Any = encoder.preprocess
    mean, std = statistics_of(encoder) or ([], [])
    if encoder.modality == "audio":
        assert isinstance(encoder, Transformers) and encoder.family == AST, "no other model of sounds is taken in"
        settings = encoder.model.config
        return {
            "feature_extractor_type": "ASTFeatureExtractor",
            "sampling_rate": preprocess.sample_rate,
            "num_mel_bins": settings.num_mel_bins,
            "max_length": settings.max_length,
            "mean": encoder.mean[0],
            "std": encoder.std[0],
        }
    size = preprocess.size
    common = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }
    if encoder.modality == "video":
        side = {"shortest_edge": size}
        return {"image_processor_type": "VideoMAEImageProcessor", **common, "size": side, **_crop(size)}
    resample = next(number for number, name in RESAMPLING.items() if name == preprocess.interpolation)
    whole = preprocess.resize == "squash"
    edge = {"height": size, "width": size} if whole else {"shortest_edge": int(size / preprocess.crop_ratio)}
    crop = {"do_center_crop": False} if whole else _crop(size)
    kind = "CLIPImageProcessor"  # which resizes the shorter edge and cuts the centre; that of ViT does neither
    return {"image_processor_type": kind, **common, "size": edge, "resample": resample, **crop}


def _crop(size: int) -> dict[str, Any]:
    return {"do_center_crop": True, "crop_size": {"height": size, "width": size}}


def _write_vit(encoder: VisionTransformer, folder: Path) -> None:
    """Writes our vision transformer as that of transformers: the same blocks, under the names of the hub's files."""
    from transformers import ViTConfig

    if encoder.class_token is None:
        raise UserError(
            "a vit without a class token has no place in transformers, whose ViT has one; export it as onnx"
        )
    blocks: Any = encoder.blocks.layers
    first = blocks[0]
    ViTConfig(
        architectures=["ViTModel"],
        hidden_size=encoder.dim,
        num_hidden_layers=len(blocks),
        num_attention_heads=first.attention.heads,
        intermediate_size=first.mlp[0].out_features,
        image_size=encoder.positions.shape[-1] * encoder.cell[0],
        patch_size=encoder.cell[0],
        num_channels=encoder.patch.in_channels,
        layer_norm_eps=encoder.norm.eps,
    ).save_pretrained(folder)
    places = encoder.positions.flatten(2).mT  # the class token has none here
    weights = {
        "embeddings.cls_token": encoder.class_token,
        "embeddings.position_embeddings": torch.cat([torch.zeros_like(places[:, :1]), places], dim=1),
        **_named("embeddings.patch_embeddings.projection", encoder.patch),
        **_named("layernorm", encoder.norm),
    }
    for number, block in enumerate(blocks):
        at = f"encoder.layer.{number}"
        for part, name in enumerate(("query", "key", "value")):
            for kind, value in block.attention.qkv.named_parameters():
                weights[f"{at}.attention.attention.{name}.{kind}"] = value.chunk(3)[part]
        weights |= _named(f"{at}.attention.output.dense", block.attention.proj)
        weights |= _named(f"{at}.layernorm_before", block.norm1) | _named(f"{at}.layernorm_after", block.norm2)
        weights |= _named(f"{at}.intermediate.dense", block.mlp[0]) | _named(f"{at}.output.dense", block.mlp[2])
    save_weights(weights, folder / "model.safetensors")


def _named(name: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.{kind}": value for kind, value in module.named_parameters()}
