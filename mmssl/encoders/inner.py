"""An encoder inside another: built from a dict of name and options, and written back as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.schema import shortened
from mmssl.types import Encoder


def build_inner(node: Mapping[str, Any], *, modality: str, where: str) -> Encoder:
    """Builds the encoder that `{"name": ..., option: ...}` describes; raises UserError for another modality."""
    options = dict(node)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"{where} needs the name of an encoder, as in {{name: convnet}}; found {shortened(dict(node))}")
    inner = create_encoder(name, where=where, **options)  # what is not trusted create_encoder found in the outer one
    if inner.modality != modality:
        raise UserError(f"{where}: {name!r} reads {inner.modality}, but an encoder of {modality} is needed")
    return inner


def inner_config(inner: Encoder) -> dict[str, Any]:
    """Returns the dict that builds the inner encoder again, without its weights."""
    config = inner.config()
    return {"name": config["name"], **config["options"]}
