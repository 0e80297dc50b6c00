"""What a folder or a hub id in the format of transformers holds: architecture, weights, preprocessing, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mmssl.errors import UserError
from mmssl.schema import shortened

PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
UNUSED = ("pooler", "position_ids")
# Families whose models are made of their config alone: others take backbones from timm or the hub, or kernels to run.
FAMILIES = (
    *("albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "gpt2", "modernbert", "mpnet", "roberta"),
    *("t5", "xlm-roberta", "clip", "siglip", "audio-spectrogram-transformer", "videomae", "beit", "convnext", "deit"),
    *("convnextv2", "data2vec-vision", "dinov2", "dinov2_with_registers", "dinov3_convnext", "dinov3_vit", "ijepa"),
    *("regnet", "resnet", "swin", "swinv2", "vit", "vit_msn"),
)
ATTENTION = (None, "eager", "sdpa")  # what torch itself computes; any other name may be code on the hub


def load_model(path: str) -> Any:
    """Returns the transformers model of a folder or hub id, in float32; UserError where there is none."""
    from safetensors import SafetensorError
    from transformers import AutoModel

    try:
        model, info = AutoModel.from_pretrained(
            path, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unavailable(path, error) from error
    missing = [key for key in info["missing_keys"] if not any(part in key for part in UNUSED)]
    if missing:
        raise UserError(f"transformers:{path}: {len(missing)} weights are missing, {missing[0]} for one; copy it again")
    return model


def make_model(architecture: dict[str, Any]) -> Any:
    """Returns a transformers model with fresh weights from its config as a dict."""
    from transformers import AutoConfig, AutoModel

    values = dict(architecture)
    try:
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        return AutoModel.from_config(config, trust_remote_code=False)
    except (KeyError, ValueError) as error:
        raise UserError(f"transformers: architecture makes no model ({error}); give a whole config.json") from error


def fetched_by(architecture: Any) -> str:
    """Returns what making a model of a config reads from the network or from files of elsewhere; "" is nothing."""
    if not isinstance(architecture, Mapping):
        return ""
    if architecture.get("model_type") not in FAMILIES:
        return f"whatever the family {shortened(architecture.get('model_type'))} of transformers asks for"
    others = [kind for kind in _attention(architecture) if kind not in ATTENTION]
    return f"the attention {shortened(others[0])}" if others else ""


def _attention(value: Any) -> Iterator[Any]:
    """Yields how a config, or one within it, wants attention computed."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if "attn_implementation" in str(key):
                yield inner
            yield from _attention(inner)


def architecture_of(config: Any) -> dict[str, Any]:
    """Returns a transformers config as plain values that do not tell where it came from."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in values.items() if key not in ("_name_or_path", "transformers_version")}


def read_processor(path: str) -> dict[str, Any]:
    """Returns the values of the folder's image, video or audio processor; none when it has none."""
    for file in filter(None, (_file(path, name) for name in PROCESSORS)):
        values: dict[str, Any] = json.loads(file.read_text())
        inner = (values.get(key) for key in ("image_processor", "video_processor", "feature_extractor"))
        return next((value for value in inner if isinstance(value, dict)), values)
    return {}


def read_tokenizer(path: str) -> tuple[Any, int, int | None] | None:
    """Returns the folder's `tokenizers.Tokenizer`, its padding token and the longest text in tokens, if it says.

    None for a folder without a tokenizer, where transformers would make up an empty one.
    """
    from transformers import AutoTokenizer

    if not any(_file(path, name) for name in VOCABULARIES):
        return None
    try:
        fast = AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)
    except Exception as error:  # each tokenizer raises its own
        raise UserError(f"transformers:{path}: its tokenizer does not load ({_line(error)}); save it again") from error
    tokenizer = getattr(fast, "backend_tokenizer", None)
    if tokenizer is None:
        raise UserError(
            f"transformers:{path} has only a slow tokenizer ({type(fast).__name__}); "
            "convert it to tokenizer.json with transformers, as AutoTokenizer(...).save_pretrained does"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    pad = fast.pad_token_id if fast.pad_token_id is not None else fast.eos_token_id
    return tokenizer, pad or 0, fast.model_max_length if fast.model_max_length < 1_000_000 else None


def _file(path: str, name: str) -> Path | None:
    from transformers.utils import cached_file

    try:
        file = cached_file(path, name)
    except OSError:
        return None
    return Path(file) if file else None


def _unavailable(path: str, error: Exception) -> UserError:
    if Path(path).is_dir():
        return UserError(f"transformers:{path} does not load ({_line(error)}); expected a folder by save_pretrained")
    return UserError(
        f"transformers:{path} is no local folder, and the hub does not give it ({_line(error)}); "
        "give a folder that save_pretrained wrote, or a hub id with the network on"
    )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
