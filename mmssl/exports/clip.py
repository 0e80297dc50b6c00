"""The two towers of a run as one model that transformers or open_clip opens: CLIP, SigLIP, CLAP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from mmssl.checkpoint import save_weights
from mmssl.encoders import create_encoder
from mmssl.encoders.open_clip import KINDS, OpenClip, join_towers
from mmssl.encoders.pretrained import make_model
from mmssl.encoders.transformers import RESAMPLING, Transformers
from mmssl.encoders.two_tower import TOWERS, fill, fill_numbers
from mmssl.errors import UserError, as_user_error, did_you_mean
from mmssl.exports.checked import TOLERANCE
from mmssl.files import write_atomically
from mmssl.loading import load_encoders
from mmssl.run_folder import read_whole
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.text import TextPreprocess
from mmssl.types import Encoder

Library = Literal["transformers", "open_clip"]
TEXTS = ["a photo of a cat", "two dogs run on a beach", "the sound of rain"]


@dataclass(slots=True)
class Trained:
    """A run's towers in one joint space, by what they read, and the numbers of its logits.

    bias: None for an objective without one.
    """

    towers: dict[str, Encoder]
    space: str
    scale: float
    bias: float | None


def export_clip(
    run: str | Path, out: str | Path, library: Library, *, space: str | None = None, trust_code: bool = False
) -> float:
    """Writes a run's two towers, their heads, scale and bias, and how inputs are prepared, as one model's folder.

    Returns the largest difference between its embeddings and the run's.

    out: a new or empty folder, for `CLIPModel.from_pretrained(out)` (SiglipModel, ClapModel) of transformers, or for
        `create_model("local-dir:OUT")` of open_clip. The towers must be encoders of that library.
    space: the task that trained them; by default the only one in which both have a head.
    trust_code: allow the run to name code outside mmssl.
    Raises UserError for a run that holds no such model, and where the folder's embeddings are not the run's to 1e-5.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{out} is not empty; give a new folder")
    trained = read_whole(Path(run), lambda: _read(Path(run), space, trust_code))
    kind = Transformers if library == "transformers" else OpenClip
    for key, encoder in trained.towers.items():
        if not isinstance(encoder, kind):
            raise UserError(f"the {key} encoder of {run} is {encoder.name!r}; {library} has no model of it")
    folder.mkdir(parents=True, exist_ok=True)
    write = _write_transformers if library == "transformers" else _write_open_clip
    write(trained, folder)
    return _check(trained, folder, library)


def _read(run: Path, space: str | None, trust_code: bool) -> Trained:
    """Loads a run's two towers, and of the task that trained them the scale and bias."""
    encoders = load_encoders(run, trust_code=trust_code)
    tasks = {file.stem: file for file in sorted((run / "objectives").glob("*.safetensors"))}
    towers = {task: {key: one for key, one in encoders.items() if task in one.spaces} for task in tasks}
    joint = [task for task, found in towers.items() if len(found) == 2]
    if space is None and len(joint) > 1:
        raise UserError(f"{run} has several joint spaces; say which: {', '.join(joint)}")
    chosen = joint[0] if space is None and joint else space
    if chosen not in joint:
        found = f"{run} has no space {space!r} of two towers" if space else f"{run} has no joint space of two towers"
        raise UserError(f"{found}; {did_you_mean(space, joint)}")
    with as_user_error(f"{tasks[chosen]} is damaged"):
        numbers = load_file(tasks[chosen])
    if "scale.log" not in numbers:
        raise UserError(f"the task {chosen!r} of {run} has no logit scale; expected one of clip or siglip")
    bias = float(numbers["bias"]) if "bias" in numbers else None
    both = {one.modality: one for one in towers[chosen].values()}
    return Trained(both, chosen, float(numbers["scale.log"].exp()), bias)


def _heads(trained: Trained) -> dict[str, Any]:
    return {key: encoder.spaces[trained.space] for key, encoder in trained.towers.items()}


def _write_transformers(trained: Trained, folder: Path) -> None:
    """Writes config, weights, processor and tokenizer as transformers lays them out."""
    towers: dict[str, Any] = trained.towers
    family = next(iter(towers.values())).family
    if family not in TOWERS or any(one.family != family for one in towers.values()):
        kinds = " and ".join(one.family for one in towers.values())
        raise UserError(f"the towers are {kinds}; expected both of one of {', '.join(TOWERS)}")
    heads = _heads(trained)
    whole = make_model(_architecture(towers, getattr(heads["text"], "embed_dim", None)))
    fill(whole, {key: one.model for key, one in towers.items()}, heads)
    fill_numbers(whole, trained.scale, trained.bias)
    whole.save_pretrained(folder)
    for encoder in towers.values():
        part = _tokenizer(encoder) if encoder.modality == "text" else _processor(encoder)
        if part is not None:
            part.save_pretrained(folder)


def _architecture(towers: Mapping[str, Any], embed_dim: int | None) -> dict[str, Any]:
    """Returns the config of both towers in one."""
    found: dict[str, Any] = {}
    for key, encoder in towers.items():
        part = TOWERS[encoder.family][key][0].replace("_model", "_config")
        found = {**encoder.architecture, **found, part: dict(encoder.architecture[part])}
    if embed_dim and encoder.family != "siglip":
        for node in (found, *(value for value in found.values() if isinstance(value, dict))):
            if "projection_dim" in node:
                node["projection_dim"] = embed_dim
    return found


def _processor(encoder: Any) -> Any:
    """Returns transformers' processor of a tower's images or sounds."""
    import transformers

    if encoder.modality == "audio":
        seconds = encoder.preprocess.seconds
        if seconds != int(seconds):
            raise UserError(f"the audio encoder hears {seconds:g} s; transformers' CLAP takes whole seconds")
        return transformers.ClapFeatureExtractor(**{**encoder.extractor, "max_length_s": int(seconds)})
    shown: ImagePreprocess = encoder.preprocess
    square = {"height": shown.size, "width": shown.size}
    shorter = shown.resize == "shorter"
    kind = transformers.CLIPImageProcessor if encoder.family == "clip" else transformers.SiglipImageProcessor
    return kind(
        size={"shortest_edge": shown.target} if shorter else square,
        do_center_crop=shorter,
        crop_size=square,
        resample=next(number for number, name in RESAMPLING.items() if name == shown.interpolation),
        image_mean=list(encoder.mean),
        image_std=list(encoder.std),
    )


def _tokenizer(encoder: Any) -> Any:
    """Returns transformers' wrapper of a tower's tokenizer; None where it came without one."""
    from transformers import PreTrainedTokenizerFast

    words = encoder.preprocess
    if type(words) is not TextPreprocess:
        return None
    bare = type(words.tokenizer).from_str(words.tokenizer.to_str())
    bare.no_padding()
    bare.no_truncation()
    ends = bare.encode("").tokens  # what stands around any text
    named = {
        "pad_token": bare.id_to_token(words.pad_id),
        **dict(zip(("eos_token", "bos_token"), ends[::-1], strict=False)),
    }
    named = {name: token for name, token in named.items() if token is not None}
    return PreTrainedTokenizerFast(tokenizer_object=bare, model_max_length=words.context_length, **named)


def _write_open_clip(trained: Trained, folder: Path) -> None:
    """Writes open_clip_config.json, the weights and any tokenizer as open_clip lays them out."""
    towers: dict[str, Any] = trained.towers
    config, weights = join_towers(towers, _heads(trained), trained.scale, trained.bias)
    image = towers["image"]
    shown = {"mean": list(image.mean), "std": list(image.std), "interpolation": image.preprocess.interpolation}
    shown["resize_mode"] = KINDS[image.preprocess.resize]
    text = json.dumps({"model_cfg": config, "preprocess_cfg": shown}, indent=2)
    if config["text_cfg"].get("hf_tokenizer_name"):
        _tokenizer(towers["text"]).save_pretrained(folder)
    save_weights(weights, folder / "open_clip_model.safetensors")
    write_atomically(folder / "open_clip_config.json", text.encode())


def _check(trained: Trained, folder: Path, library: Library) -> float:
    """Returns how far the folder's embeddings of some inputs are from the run's; UserError where that is too far."""
    furthest = 0.0
    for key, encoder in trained.towers.items():
        again = create_encoder(f"{library}:{folder}", modality=key)
        assert again.joint is not None
        x = _some(encoder)
        with torch.inference_mode():
            ours = encoder.eval().embed(x, space=trained.space)
            theirs = again.eval().joint.head(again(x))  # type: ignore[union-attr]
        far = (ours - theirs).abs().max().item()
        if not far <= TOLERANCE:
            raise UserError(f"{folder} embeds {key} otherwise than the run, by up to {far:.2g}; it is of no use")
        furthest = max(furthest, far)
    return furthest


def _some(encoder: Encoder) -> Any:
    """Returns a batch of made inputs."""
    if encoder.modality == "text":
        if type(encoder.preprocess) is TextPreprocess:
            return encoder.preprocess.collate(TEXTS)
        return torch.arange(2, 8).view(2, 3)
    blank: Tensor = encoder.preprocess.blank()
    generator = torch.Generator().manual_seed(0)
    if blank.is_floating_point():
        return torch.randn(2, *blank.shape, generator=generator)
    return torch.randint(256, (2, *blank.shape), dtype=torch.uint8, generator=generator)
