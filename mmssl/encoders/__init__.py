"""Encoders: one file per family, every one returns Features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmssl import names, own
from mmssl.errors import UserError
from mmssl.types import Encoder


def create_encoder(name: str, *, where: str = "", trust_code: bool = True, **options: Any) -> Encoder:
    """Makes an encoder by its name, with fresh weights unless its options say otherwise.

    `create_encoder("convnet", image_size=32)`, `create_encoder("timm:resnet18", pretrained=True)`,
    `create_encoder("mypkg.mine:MyEncoder")`, `create_encoder("./mine.py:MyEncoder")`.

    where: what errors point at.
    trust_code: allow code outside mmssl, for encoders within this one too.
    Raises UserError for an unknown name or option.
    """
    for inner, _ in () if trust_code else _named(name, options):
        names.resolve("encoders", inner, trust_code=False)
    encoder: Encoder = names.build("encoders", name, where=where, **options)
    encoder.name, encoder.options = own.absolute(name), own.located(options)
    return encoder


def refuse_fetching(name: str, options: Mapping[str, Any]) -> None:
    """Raises UserError where building an encoder, or one within it, would read the network or files of elsewhere.

    What `Encoder.config` returns never does, so that a folder which asks for it is none that mmssl saved.
    """
    for each, what in fetched(name, options, trust_code=False):
        raise UserError(f"the encoder {each!r} would read {what}, which no saved one needs; {names.TRUST}")


def fetched(name: str, options: Mapping[str, Any], *, trust_code: bool) -> Iterator[tuple[str, str]]:
    """Yields the encoders, this one and those within it, that read the network or files of elsewhere, and what."""
    for each, given in _named(name, options):
        kind, variant = names.resolve("encoders", each, trust_code=trust_code)
        if what := kind.fetches({**given, "variant": variant}):
            yield each, what


def _named(name: str, options: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields name and options of an encoder, and of those within it: `{"name": ..., option: ...}` at any depth."""
    yield name, options
    for node in _nodes([*options.values()]):
        yield node["name"], {key: value for key, value in node.items() if key != "name"}


def _nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        yield value
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for part in inside:
        yield from _nodes(part)
