"""What a folder or a hub id in the format of transformers holds: architecture, weights, preprocessing, tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

from mmssl.errors import UserError
from mmssl.limits import refuse
from mmssl.nn.bounded import bounded, check_values
from mmssl.schema import Positive, fit, read_json, read_text, shortened
from mmssl.trial import apart, panicking, try_tokenizer

PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
INNER = ("image_processor", "video_processor", "feature_extractor")
TOKENIZER = re.compile(r"(?!Auto)\w*(Tokenizer(Fast)?|Backend)")
LONGEST = 2**16  # tokens of a text, where nothing else limits it
# Families that lay out sines and cosines in loops of Python, and what they call places and width.
LAID_OUT = ("videomae", "distilbert", "flaubert", "xlm", "marian", "pegasus", "roformer")
PLACES = ("max_position_embeddings", "n_positions")
WIDTHS = ("hidden_size", "dim", "emb_dim", "d_model")
UNUSED = ("pooler", "position_ids")
# Families whose models are made of their config alone: others take backbones from timm or the hub, or kernels to run.
FAMILIES = (
    *("albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "gpt2", "modernbert", "mpnet", "roberta"),
    *(
        "t5",
        "xlm-roberta",
        "clip",
        "siglip",
        "clap",
        "audio-spectrogram-transformer",
        "videomae",
        "beit",
        "convnext",
        "deit",
    ),
    *("convnextv2", "data2vec-vision", "dinov2", "dinov2_with_registers", "dinov3_convnext", "dinov3_vit", "ijepa"),
    *("regnet", "resnet", "swin", "swinv2", "vit", "vit_msn"),
)
ATTENTION = (None, "eager", "sdpa")  # what torch itself computes; any other name may be code on the hub


class Processor(TypedDict, total=False):
    """What a processor says that encoders go by; other keys stand beside these."""

    do_normalize: bool | None
    do_center_crop: bool | None
    image_mean: tuple[float, float, float] | None
    image_std: tuple[float, float, float] | None
    mean: float
    std: float
    size: dict[str, Positive | None] | Positive | None
    resample: Literal[0, 1, 2, 3, None]
    sampling_rate: Positive
    feature_size: Positive
    fft_window_size: Positive
    hop_length: Positive
    max_length_s: float
    frequency_min: float
    frequency_max: float
    truncation: Literal["fusion", "rand_trunc"]
    padding: str


HEARD = (  # what of them the front end of a sound goes by
    *("sampling_rate", "feature_size", "fft_window_size", "hop_length", "max_length_s"),
    *("frequency_min", "frequency_max", "truncation", "padding"),
)


def load_model(path: str) -> Any:
    """Returns the transformers model of a folder or hub id, in float32; UserError where there is none."""
    from transformers import AutoModel

    _check_config(path)
    try:
        with bounded(f"transformers:{path}", *_weights(path)):
            model, info = AutoModel.from_pretrained(
                path, dtype=torch.float32, output_loading_info=True, trust_remote_code=False, weights_only=True
            )
    except UserError:
        raise
    except Exception as error:  # each family, and each format of weights, raises its own
        raise _unavailable(path, error) from error
    missing = [key for key in info["missing_keys"] if not any(part in key for part in UNUSED)]
    if missing:
        raise UserError(f"transformers:{path}: {len(missing)} weights are missing, {missing[0]} for one; copy it again")
    return model


def _check_config(path: str) -> None:
    """Raises UserError for a config.json whose numbers no network has."""
    file = _file(path, "config.json")
    if file is not None:
        architecture = read_json(file)
        check_values(architecture, str(file))
        _check_attention(architecture, str(file))
        check_places(architecture, str(file))


def _check_attention(architecture: Any, where: str) -> None:
    """Raises UserError for a config, or one within it, that has attention computed by code of the hub."""
    for key, value in architecture.items() if isinstance(architecture, dict) else ():
        if "_implementation" in key and "/" in str(value):
            raise UserError(f"{where}: {key} is {shortened(value)}, which is code on the hub; take that line out")
        _check_attention(value, where)


def check_places(architecture: Any, where: str) -> None:
    """Raises UserError for more places, times the width of their codes, than some families can lay out in Python."""
    if not isinstance(architecture, dict):
        raise UserError(f"{where} is {shortened(architecture)}; expected a transformers config")
    values = {key: value for key, value in architecture.items() if isinstance(value, int) and value > 0}
    patch = values.get("patch_size", 16)
    places = (
        (values.get("image_size", 224) // patch) ** 2 * values.get("num_frames", 16) // values.get("tubelet_size", 2)
    )
    if architecture.get("model_type") != "videomae":
        places = next((values[key] for key in PLACES if key in values), 0)
    width = next((values[key] for key in WIDTHS if key in values), 768)
    if architecture.get("model_type") in LAID_OUT:
        refuse("network_codes", places * width, f"{where} asks for codes of {places} places, {width} wide")


def _weights(path: str) -> list[Path]:
    """Returns the files of weights, those of the hub once they are here."""
    for name in WEIGHTS:
        file = _file(path, name)
        if file is None:
            continue
        if not name.endswith(".index.json"):
            return [file]
        index = read_json(file)
        shards = index.get("weight_map") if isinstance(index, dict) else None
        names = set(shards.values()) if isinstance(shards, dict) else set()
        if not names or not all(isinstance(shard, str) and Path(shard).name == shard for shard in names):
            raise UserError(f"{file} names no files of weights beside it; copy it again")
        return [found for found in (_file(path, shard) for shard in sorted(names)) if found is not None]
    return []


def make_model(architecture: dict[str, Any]) -> Any:
    """Returns a transformers model with fresh weights from its config as a dict."""
    from transformers import AutoConfig, AutoModel

    values = dict(architecture)
    check_places(values, "transformers: architecture")
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


def read_processor(path: str) -> Processor:
    """Returns the values of the folder's image, video or audio processor; none when it has none."""
    for file in filter(None, (_file(path, name) for name in PROCESSORS)):
        values = read_json(file)
        check_values(values, str(file))
        inner = [values.get(key) for key in INNER] if isinstance(values, dict) else []
        processor: Processor = fit(
            next((value for value in inner if isinstance(value, dict)), values), Processor, str(file)
        )
        return processor
    return {}


def read_tokenizer(path: str, *, known: int | None) -> tuple[Any, int, int | None] | None:
    """Returns the folder's `tokenizers.Tokenizer`, its padding token and the longest text in tokens, if it says.

    known: how many tokens the network has embeddings for. None for a folder without a tokenizer, where transformers
    would make up an empty one. What transformers converts is converted, and every tokenizer tried, apart first.
    """
    from tokenizers import Tokenizer

    where = f"transformers:{path}"
    if not any(_file(path, name) for name in VOCABULARIES):
        return None
    for name in (*VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        file = _file(path, name)
        if file is not None:
            refuse("tokenizer_bytes", file.stat().st_size, f"{file} has {file.stat().st_size:,} bytes")
    _check_settings(path)
    whole = _file(path, "tokenizer.json")
    if whole is None:
        found = apart("mmssl.encoders.pretrained", "convert_tokenizer", path, where)
    else:
        try_tokenizer(read_text(whole, "tokenizer_bytes"), where, length=LONGEST)
        with panicking(where):
            found = convert_tokenizer(path)
    if "slow" in found:
        raise UserError(
            f"{where} has only a slow tokenizer ({found['slow']}); "
            "convert it to tokenizer.json with transformers, as AutoTokenizer(...).save_pretrained does"
        )
    try_tokenizer(found["text"], where, length=LONGEST, known=known)
    with panicking(where):
        return Tokenizer.from_str(found["text"]), found["pad"], found["longest"]


def convert_tokenizer(path: str) -> dict[str, Any]:
    """Returns what transformers makes of a folder's tokenizer: its text, the padding token, the longest text."""
    from transformers import AutoTokenizer

    fast = AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)
    tokenizer = getattr(fast, "backend_tokenizer", None)
    if tokenizer is None:
        return {"slow": type(fast).__name__}
    tokenizer.no_padding()
    tokenizer.no_truncation()
    pad = fast.pad_token_id if fast.pad_token_id is not None else fast.eos_token_id
    longest = fast.model_max_length if fast.model_max_length < 1_000_000 else None
    return {"text": tokenizer.to_str(), "pad": pad or 0, "longest": longest}


def _check_settings(path: str) -> None:
    """Raises UserError for a tokenizer_config.json that asks for another class, or for numbers that none has."""
    file = _file(path, "tokenizer_config.json")
    if file is None:
        return
    settings = read_json(file)
    if not isinstance(settings, dict):
        raise UserError(f"{file} is {shortened(settings)}; expected a mapping")
    check_values({key: value for key, value in settings.items() if key != "model_max_length"}, str(file))
    kind = settings.get("tokenizer_class")
    if kind is not None and not (isinstance(kind, str) and TOKENIZER.fullmatch(kind)):
        raise UserError(f"{file}: tokenizer_class is {shortened(kind)}; expected a class of tokenizers")


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
