"""Weights that fit the model of torchvision of the same name, without its classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmssl.encoders.timm import Timm
from mmssl.encoders.torchvision import TorchvisionVideo
from mmssl.errors import UserError
from mmssl.exports.described import describe, statistics_of
from mmssl.exports.plain import Plain
from mmssl.nn.misfit import misfit

CLASSIFIERS = ("fc", "head", "classifier", "heads")


def write(plain: Plain, folder: Path) -> Any:
    """Writes weights.pth, and into preprocess.json how it is opened."""
    from torchvision.models import get_model, list_models

    encoder = plain.encoder
    name = encoder.name.partition(":")[2].partition(".")[0]
    if not isinstance(encoder, Timm | TorchvisionVideo) or name not in list_models():
        raise UserError(f"torchvision has no model of the name and weights of {encoder.name}; export it as onnx")
    opened = get_model(name, weights=None)
    place = next(part for part in CLASSIFIERS if hasattr(opened, part))
    setattr(opened, place, nn.Identity())
    weights = _renamed(encoder, opened)
    if difference := misfit(opened, weights):
        raise UserError(f"{encoder.name} is built otherwise than torchvision's {name}: {difference}; export it as onnx")
    torch.save(weights, folder / "weights.pth")
    how = [
        f"model = torchvision.models.get_model({name!r}, weights=None)",
        f"model.{place} = torch.nn.Identity()",
        'model.load_state_dict(torch.load("weights.pth"))',
    ]
    describe(encoder, folder, within=False, model=name, open=how)
    opened.load_state_dict(torch.load(folder / "weights.pth", weights_only=True))
    mean, std = (torch.tensor(values) for values in statistics_of(encoder) or ())
    return lambda x: [opened.eval()((x.movedim(1, -1) - mean).div(std).movedim(-1, 1))]


def _renamed(encoder: Timm | TorchvisionVideo, opened: nn.Module) -> dict[str, Any]:
    """Returns an encoder's weights under torchvision's names, as far as it has them."""
    own, theirs = encoder.state_dict(), opened.state_dict()
    names = dict(zip(encoder.published(dict(theirs)), theirs, strict=True))
    return {names.get(key, key): value for key, value in own.items()}
