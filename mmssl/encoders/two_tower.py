"""The two-tower models of transformers, CLIP, SigLIP and CLAP, taken apart into towers and put together again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmssl.encoders.mel import DecibelMel
from mmssl.encoders.pretrained import Processor
from mmssl.errors import UserError
from mmssl.nn.head import Projection
from mmssl.schema import shortened
from mmssl.transforms.audio import AudioPreprocess, RepeatedAudio
from mmssl.types import Joint

# Of each family what it reads, with the names of the tower and of its projection.
TOWERS: dict[str, dict[str, tuple[str, str]]] = {
    "clip": {"image": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")},
    "siglip": {"image": ("vision_model", ""), "text": ("text_model", "")},  # which project within
    "clap": {"audio": ("audio_model", "audio_projection"), "text": ("text_model", "text_projection")},
}
SCALES = ("logit_scale", "logit_scale_a", "logit_scale_t")  # CLAP has one for each direction; its loss uses the first


def tower_of(whole: Any, modality: str | None) -> tuple[str, Any]:
    """Returns what a tower of a model reads, and the tower; UserError for a modality that none of them reads."""
    family = whole.config.model_type
    if modality not in TOWERS[family]:
        choices = " or ".join(f"modality: {name}" for name in TOWERS[family])
        raise UserError(f"transformers: {family} has two encoders; say {choices}")
    return modality, getattr(whole, TOWERS[family][modality][0])


def joint_of(whole: Any, modality: str, dim: int, model: str) -> Joint:
    """Returns what a tower brings: its projection, and the model's scale and bias.

    dim: of the tower's pooled features.
    model: the folder or hub id.
    """
    head = _own_head(whole, modality, dim)
    for mine, theirs in zip(_linears(head), _linears(_projection(whole, modality)), strict=True):
        mine.load_state_dict(theirs.state_dict())
    numbers = {name: float(value.detach()) for name, value in whole.named_parameters(recurse=False)}
    scale = math.exp(next(numbers[name] for name in SCALES if name in numbers))
    return Joint(_identity(model), head, head.embed_dim, scale, numbers.get("logit_bias"))


def _identity(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).exists() else model


def _projection(whole: Any, modality: str) -> nn.Module:
    name = TOWERS[whole.config.model_type][modality][1]
    found: nn.Module = getattr(whole, name) if name else nn.Identity()
    return found


def _own_head(whole: Any, modality: str, dim: int) -> Projection:
    """Returns a head of the shape of a tower's projection; UserError where heads have no such activation."""
    linears = _linears(_projection(whole, modality))
    sizes = [layer.out_features for layer in linears]
    activation = getattr(whole.config, "projection_hidden_act", "relu")
    if len(linears) > 1 and activation not in ("relu", "gelu"):
        raise UserError(f"transformers: projection_hidden_act is {activation!r}; expected relu or gelu")
    return Projection(
        dim,
        out=sizes[-1] if sizes else None,
        hidden=sizes[:-1],
        norm=len(sizes) < 2,  # which only hidden layers have
        bias=any(layer.bias is not None for layer in linears),
        gelu=activation == "gelu" and len(sizes) > 1,
    )


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [part for part in module.modules() if isinstance(part, nn.Linear)]


def hearing_of_clap(values: Processor, seconds: float | None) -> tuple[AudioPreprocess, DecibelMel]:
    """Returns how CLAP cuts sounds and turns them into spectrograms, by its feature extractor's values."""
    padding, rate = values.get("padding", "repeatpad"), values.get("sampling_rate", 48_000)
    if padding not in ("repeatpad", "pad"):
        raise UserError(f"transformers: clap pads sounds by {shortened(padding)}; expected repeatpad or pad")
    kind = RepeatedAudio if padding == "repeatpad" else AudioPreprocess
    front = DecibelMel(
        rate,
        values.get("feature_size", 64),
        fft=values.get("fft_window_size", 1024),
        hop=values.get("hop_length", 480),
        low=values.get("frequency_min", 0),
        high=values.get("frequency_max", 14_000),
        slaney=values.get("truncation", "fusion") != "fusion",
    )
    return kind(sample_rate=rate, seconds=seconds or values.get("max_length_s", 10)), front


def fill(whole: Any, towers: Mapping[str, nn.Module], heads: Mapping[str, nn.Module]) -> None:
    """Gives a model the weights of towers and their heads; UserError for a head that is no projection of its kind."""
    for modality, trained in towers.items():
        _, tower = tower_of(whole, modality)
        tower.load_state_dict(trained.state_dict())
        head = heads[modality]
        dim = head.config()["dim"] if isinstance(head, Projection) else 0
        own = _own_head(whole, modality, dim)
        if not isinstance(head, Projection) or head.config() != own.config():
            raise UserError(
                f"the {modality} head is {_described(head)}, but {whole.config.model_type} projects by "
                f"{_described(own)}; train with its own projections: leave objective.hidden, embed_dim and headless out"
            )
        for mine, theirs in zip(_linears(head), _linears(_projection(whole, modality)), strict=True):
            theirs.load_state_dict(mine.state_dict())


def _described(head: nn.Module) -> str:
    layers = " and ".join(f"{one.in_features} to {one.out_features} numbers" for one in _linears(head))
    return f"linear layers of {layers}" if layers else "none"


@torch.no_grad()
def fill_numbers(whole: Any, scale: float, bias: float | None) -> None:
    """Gives a model the scale of its logits and, where it has one, their bias."""
    for name, parameter in whole.named_parameters(recurse=False):
        if name in SCALES:
            parameter.fill_(math.log(scale))
        elif name == "logit_bias" and bias is not None:
            parameter.fill_(bias)
