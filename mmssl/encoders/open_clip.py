"""A tower of any open_clip model: open_clip:FOLDER, open_clip:hf-hub:ORG/NAME, or open_clip:ViT-B-32 and weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.encoders import bpe
from mmssl.encoders.open_clip_files import PreprocessConfig, open_model
from mmssl.encoders.open_clip_tokens import read_tokens
from mmssl.errors import UserError, as_user_error
from mmssl.nn.head import Projection
from mmssl.nn.normalize import Normalize
from mmssl.schema import shortened
from mmssl.transforms.image import ImagePreprocess
from mmssl.types import Encoder, Features, Joint

KINDS = {"shorter": "shortest", "squash": "squash"}  # how images are resized, in our words and in open_clip's


class OpenClip(Encoder):
    """One tower of an open_clip model (Cherti et al., CVPR 2023), with the tokenizer and the statistics of its folder.

    Its projection becomes the space `open_clip`, and what is trained in a joint space begins with it.

    variant: a folder with open_clip_config.json and weights, hf-hub:ORG/NAME, or the name of an architecture.
    modality: which tower.
    checkpoint: of an architecture: a file with a state dict (.pt, .safetensors), or the tag of published weights; they
        are fresh without it.
    architecture: open_clip's model_cfg as a mapping, in place of a variant.
    mean, std: per channel, in place of what the folder says.
    context_length: tokens of a text at most, in place of the model's own.
    """

    preprocess: Any  # of the modality that the tower reads

    def __init__(
        self,
        variant: str = "",
        *,
        modality: Literal["image", "text"],
        checkpoint: str | None = None,
        architecture: dict[str, Any] | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        context_length: int | None = None,
    ) -> None:
        super().__init__()
        if bool(variant) == bool(architecture):
            raise UserError("open_clip takes a folder, hub id or architecture, as in 'open_clip:PATH'")
        opened = open_model(variant, architecture, checkpoint, modality)
        self.modality, self.architecture = modality, opened.architecture
        with as_user_error(f"{opened.where} describes no encoder"):
            self.tower = opened.model.visual if modality == "image" else opened.model.text
            self.projection, head = _take_projection(self.tower, opened.architecture["embed_dim"])
            self.dim = head.config()["dim"]
            if modality == "image":
                self._see(opened.preprocess, mean, std)
            else:
                self.preprocess = read_tokens(opened, context_length)
        if opened.file:
            numbers = {name: float(value.detach()) for name, value in opened.model.named_parameters(recurse=False)}
            scale, bias = math.exp(numbers["logit_scale"]), numbers.get("logit_bias")
            self.joint = Joint(opened.file, head, head.embed_dim, scale, bias)
            self.spaces["open_clip"] = head

    def _see(self, values: PreprocessConfig, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
        """Sets how images are resized and normalised."""
        height, width = _pair(self.tower.image_size)
        if height != width:
            raise UserError(f"open_clip: images are {height} by {width} pixels; expected a square")
        kind: Literal["shorter", "squash"] = "squash" if values.get("resize_mode") == "squash" else "shorter"
        self.mean, self.std = mean or values["mean"], std or values["std"]
        self.front = Normalize(self.mean, self.std)
        interpolation = values.get("interpolation", "bicubic")
        self.preprocess = ImagePreprocess(size=height, resize=kind, interpolation=interpolation)

    def forward(self, x: Any) -> Features:
        """Takes what preprocessing collates; of token ids also a plain tensor (B, L), see TextPreprocess.words."""
        if self.modality == "image":
            output = self.tower(self.front(x))
            pooled, tokens = output if isinstance(output, tuple) else (output, None)
            grid = tuple(getattr(self.tower, "grid_size", ()))
            cells = tokens is not None and tokens.shape[1] == math.prod(grid)
            return Features(pooled, tokens, grid=grid if cells else None)
        words = self.preprocess.words(x)
        pooled, tokens = self.tower(self._padded(words.values))
        return Features(pooled, tokens, lengths=words.lengths if tokens.shape[1] == words.values.shape[1] else None)

    def _padded(self, ids: Tensor) -> Tensor:
        """Pads texts to the full length, as open_clip does: its mask has that size, and some pool the last token."""
        return F.pad(ids, (0, self.tower.context_length - ids.shape[1]), value=self.preprocess.pad_id)

    @classmethod
    def fetches(cls, options: Mapping[str, Any]) -> str:
        for name in ("variant", "checkpoint"):
            if options.get(name):
                return f"open_clip's {name} {shortened(options[name])}"
        return _fetched_by(options.get("architecture"))

    def config(self) -> dict[str, Any]:
        options: dict[str, Any] = {"architecture": copy.deepcopy(self.architecture), "modality": self.modality}
        if self.modality == "image":
            options |= {"mean": self.mean, "std": self.std}
        else:
            options["context_length"] = self.preprocess.context_length
        return {"name": "open_clip", "options": options}

    @property
    def learns_preprocess(self) -> bool:
        return self.modality == "text" and bpe.is_untrained(self.preprocess.tokenizer)

    def learn_preprocess(self, raws: Iterable[Any]) -> None:
        bpe.learn_merges(self.preprocess, raws, self.tower.vocab_size)

    def save_files(self, folder: Path) -> None:
        if self.modality == "text":
            bpe.save_tokenizer(self.preprocess.tokenizer, folder)

    def load_files(self, folder: Path) -> None:
        if self.modality == "text":
            bpe.load_tokenizer(self.preprocess, folder, known=self.tower.vocab_size)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _take_projection(tower: Any, embed_dim: int) -> tuple[str, Projection]:
    """Takes a transformer's projection out of a tower, whose features are then those before it.

    Returns the name that it had there, and a head of its weights; other towers keep theirs, and the head adds nothing.
    """
    name = "proj" if hasattr(tower, "ln_post") else "text_projection" if hasattr(tower, "ln_final") else ""
    if name:
        tower.output_tokens = True
    own = getattr(tower, name) if name else None
    if own is None:  # a text tower may have none
        return "", Projection(tower.width if name else embed_dim, out=None)
    setattr(tower, name, None)
    weights = own.state_dict() if isinstance(own, nn.Linear) else {"weight": own.detach().T}
    head = Projection(weights["weight"].shape[1], out=weights["weight"].shape[0], bias="bias" in weights)
    head.layers[0].load_state_dict(weights)
    return name, head


def _fetched_by(architecture: Any) -> str:
    """Returns what making a model of a model_cfg reads from the network or from files of elsewhere; "" is nothing."""
    for part in ("vision_cfg", "text_cfg"):
        values = architecture.get(part) if isinstance(architecture, Mapping) else None
        for key, value in values.items() if isinstance(values, Mapping) else ():
            fetched = key == "timm_model_name" and any(sign in str(value) for sign in ":/")  # a hub id or a folder
            if fetched or (key == "hf_model_name" and value):
                return f"{key} {shortened(value)}"
    return ""


def join_towers(
    towers: Mapping[str, OpenClip], heads: Mapping[str, nn.Module], scale: float, bias: float | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the model_cfg and the state dict of both towers with their heads, as open_clip has them.

    UserError for a head that is no projection of open_clip's.
    """
    image, text = towers["image"], towers["text"]
    config = {**copy.deepcopy(image.architecture), "text_cfg": copy.deepcopy(text.architecture["text_cfg"])}
    config.pop("init_logit_bias", None)
    shape = [1] if config.get("nonscalar_logit_scale") else []
    weights = {"logit_scale": torch.full(shape, math.log(scale))}
    if bias is not None:
        config["init_logit_bias"] = bias
        weights["logit_bias"] = torch.full(shape, bias)
    for key, prefix in (("image", "visual."), ("text", "text.")):
        own = {**towers[key].tower.state_dict(), **_projected(towers[key], heads[key], config)}
        weights |= {prefix + part: value for part, value in own.items()}
    if not config.get("custom_text"):  # its parts stand in the model itself
        weights = {part.removeprefix("text."): value for part, value in weights.items()}
    return config, weights


def _projected(encoder: OpenClip, head: nn.Module, config: dict[str, Any]) -> dict[str, Tensor]:
    """Returns a head's weights as a tower has them, and sets what the config says of them."""
    layers = head.layers if isinstance(head, Projection) else nn.Sequential(head)
    bias = bool(len(layers)) and getattr(layers[0], "bias", None) is not None
    fits = isinstance(head, Projection) and len(layers) == bool(encoder.projection)
    if not fits or (bias and encoder.modality == "image"):
        kind = "one linear layer" if encoder.projection else "none"
        raise UserError(
            f"the {encoder.modality} head is not such as the tower's own projection, {kind}; train with that one: "
            "leave objective.hidden, embed_dim and headless out"
        )
    config["embed_dim"] = head.embed_dim
    if not encoder.projection:
        return {}
    if encoder.modality == "text":
        config["text_cfg"]["proj_bias"] = bias
    weights = layers[0].state_dict()
    if not bias:
        return {encoder.projection: weights["weight"].T}
    return {f"{encoder.projection}.{name}": value for name, value in weights.items()}


encoder = OpenClip
