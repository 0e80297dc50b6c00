"""An encoder as it was before it learnt: the baseline of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mmssl.encoders import create_encoder
from mmssl.types import Encoder


def untrained(encoder: Encoder, *, space: str | None = None, seed: int = 0) -> Encoder:
    """Builds an encoder again, and with a space that it has the space's head, with random weights."""
    config = encoder.config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = create_encoder(config["name"], **config["options"])
        if space in encoder.spaces:
            fresh.spaces[space] = type(encoder.spaces[space])(**encoder.spaces[space].config())
    fresh.preprocess = encoder.preprocess  # a tokenizer is learnt before training begins
    return fresh.to(encoder.device).eval()


@contextmanager
def warming(encoder: Encoder) -> Iterator[None]:
    """Lets BatchNorm, of the encoder and its heads, take the plain mean over what the encoder sees meanwhile."""
    encoder.train()
    for module in (*encoder.modules(), *(part for head in encoder.spaces.values() for part in head.modules())):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    yield
    encoder.eval()
