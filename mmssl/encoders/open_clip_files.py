"""What a folder, a hub id, or an architecture with a file of weights holds of an open_clip model."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from mmssl.errors import UserError, as_user_error, did_you_mean
from mmssl.nn.bounded import bounded, check_values
from mmssl.schema import Positive, fit, read_json

CONFIG, HUB = "open_clip_config.json", "hf-hub:"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
LEAST: dict[str, Any] = {  # stands where a tower is not wanted
    "vision_cfg": {"image_size": 1, "patch_size": 1, "width": 1, "layers": 1, "head_width": 1},
    "text_cfg": {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1},
}


class ModelConfig(TypedDict):
    """What a model_cfg holds; other keys stand beside these."""

    embed_dim: Positive
    vision_cfg: dict[str, Any]
    text_cfg: dict[str, Any]


class PreprocessConfig(TypedDict, total=False):
    """What a preprocess_cfg holds; other keys stand beside these."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear", "nearest"]
    resize_mode: Literal["shortest", "squash"]


@dataclass(slots=True)
class Opened:
    """An open_clip model, its towers apart from each other.

    where: what errors point at.
    file: its weights, "" where they are fresh; towers of one model have the same.
    source: the folder or hub id that a tokenizer may lie in, "" where there is none.
    """

    where: str
    file: str
    source: str
    architecture: dict[str, Any]
    preprocess: PreprocessConfig
    model: Any


def open_model(variant: str, architecture: dict[str, Any] | None, checkpoint: str | None, modality: str) -> Opened:
    """Builds a model and loads its weights; UserError for what does not fit, and without the library open_clip.

    modality: of the tower that is wanted; without weights the other one is left as small as can be.
    """
    try:
        from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    except ImportError:
        raise UserError("open_clip is not installed; `pip install 'mmssl[open_clip]'`") from None
    where = f"open_clip:{variant}" if variant else "open_clip: architecture"
    shown: Any = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD}
    hub, file = variant.startswith(HUB), checkpoint or ""
    given: dict[str, Any] = {}
    if hub or (variant and Path(variant).is_dir()):
        if checkpoint:
            raise UserError(f"{where} has weights of its own; leave `checkpoint` out")
        config, file = _from_hub(variant.removeprefix(HUB)) if hub else _from_folder(Path(variant))
        architecture, given = config.get("model_cfg"), config.get("preprocess_cfg") or {}
    elif variant:
        architecture, file, given = _published(variant, checkpoint)
    if file and not Path(file).is_file():
        raise UserError(f"{where}: there are no weights at {file}; expected a file with a state dict")
    check_values([architecture, given], where)
    made: Any = fit(architecture, ModelConfig, f"{where}: model_cfg")
    preprocess: PreprocessConfig = fit({**shown, **given}, PreprocessConfig, f"{where}: preprocess_cfg")
    source = variant.removeprefix(HUB) if hub or Path(variant).is_dir() else ""
    return Opened(
        where, file and str(Path(file).resolve()), source, made, preprocess, _build(made, where, file, modality)
    )


def _from_folder(folder: Path) -> tuple[dict[str, Any], str]:
    """Returns a folder's config and its file of weights."""
    files = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not (folder / CONFIG).is_file() or not files:
        raise UserError(f"{folder} is no folder of open_clip; expected {CONFIG} and {' or '.join(WEIGHTS)} in it")
    return fit(read_json(folder / CONFIG), dict, str(folder / CONFIG)), str(files[0])


def _from_hub(name: str) -> tuple[dict[str, Any], str]:
    """Returns the same of a hub id, which huggingface_hub keeps in its cache."""
    from transformers.utils import cached_file

    try:
        config = cached_file(name, CONFIG)
        found = [cached_file(name, file, _raise_exceptions_for_missing_entries=False) for file in WEIGHTS]
    except OSError as error:
        raise UserError(f"open_clip:{HUB}{name} is not to be had ({str(error).splitlines()[0][:160]})") from error
    files = [str(file) for file in found if file]
    if not files:
        raise UserError(f"open_clip:{HUB}{name} has no weights; expected {' or '.join(WEIGHTS)}")
    return fit(read_json(Path(str(config))), dict, f"{HUB}{name}"), files[0]


def _published(name: str, checkpoint: str | None) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Returns an architecture of open_clip's, its file of weights, and how images are shown that those were trained on.

    checkpoint: a file, or the tag of published weights, which are downloaded.
    """
    import open_clip

    architecture: dict[str, Any] | None = open_clip.get_model_config(name)
    if architecture is None:
        near = did_you_mean(name, open_clip.list_models())
        raise UserError(f"open_clip:{name} is no folder, and open_clip has no such architecture; {near}")
    if checkpoint is None or Path(checkpoint).is_file():
        return architecture, checkpoint or "", {}
    tags = open_clip.list_pretrained_tags_by_model(name)
    if checkpoint not in tags:
        hint = did_you_mean(checkpoint, tags)
        raise UserError(f"open_clip:{name}: checkpoint {checkpoint!r} is no file and no tag; {hint}")
    values = open_clip.get_pretrained_cfg(name, checkpoint)
    with as_user_error(f"open_clip:{name}: the weights {checkpoint!r} are not to be had"):
        file = str(open_clip.download_pretrained(values))
    architecture["quick_gelu"] = bool(values.get("quick_gelu", architecture.get("quick_gelu", False)))
    return architecture, file, {key: values[key] for key in PreprocessConfig.__annotations__ if values.get(key)}


def _build(architecture: dict[str, Any], where: str, file: str, modality: str) -> Any:
    """Returns the model with its weights, in float32; towers of words that transformers makes are refused."""
    import open_clip

    values = copy.deepcopy(architecture)
    values.pop("custom_text", None)  # the towers stand apart in either case
    if values["text_cfg"].get("hf_model_name") or "multimodal_cfg" in values:
        raise UserError(f"{where}: only text towers of open_clip's own are supported, no CoCa and none of transformers")
    if values["vision_cfg"].get("timm_model_name"):
        values["vision_cfg"]["timm_model_pretrained"] = False
    with as_user_error(f"{where} makes no model"):
        if not file:
            other = "text_cfg" if modality == "image" else "vision_cfg"
            return open_clip.CustomTextCLIP(**{**values, other: LEAST[other]})
        with bounded(where, Path(file)):
            model = open_clip.CustomTextCLIP(**values)
    with as_user_error(f"{where}: the weights of {file} do not fit"):
        open_clip.load_checkpoint(model, file, weights_only=True)
    return model.float()
