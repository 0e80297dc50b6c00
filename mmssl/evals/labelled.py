"""Features with labels of a training and a test set: what probes of frozen encoders are fitted to and judged on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from mmssl.data.shards import Source
from mmssl.encoders.raw import PREPROCESS, Raw
from mmssl.errors import UserError, did_you_mean
from mmssl.evals.stream import chunks, embed_stream, open_source
from mmssl.evals.untrained import untrained, warming
from mmssl.types import Encoder, Trained

WARM = 512  # samples that set the statistics of random weights


@dataclass(slots=True)
class Rows:
    """Features x (N, D), float32 on the CPU, and classes y (N,)."""

    x: Tensor
    y: Tensor


class Labelled:
    """A training and a test set. Classes are numbered in the order of the training set's sorted labels.

    label: the sample's key that holds the class.
    """

    def __init__(self, train: Mapping[str, Any], data: Mapping[str, Any], *, label: str) -> None:
        self.train, self.test, self.label = open_source(train), open_source(data), label

    def rows(self, encoder: Encoder, key: str, *, space: str | None = None) -> tuple[Rows, Rows]:
        """Embeds both sets; every process gets all rows."""
        train, test = (self._embedded(source, encoder, key, space) for source in (self.train, self.test))
        number = {name: place for place, name in enumerate(sorted(set(train[1])))}
        for name in set(test[1]) - set(number):
            raise UserError(f"the test data has the class {name!r}, the training data only {len(number)} others")
        one, other = (Rows(x, torch.tensor([number[name] for name in labels])) for x, labels in (train, test))
        return one, other

    def _embedded(self, source: Source, encoder: Encoder, key: str, space: str | None) -> tuple[Tensor, list[Any]]:
        x, kept = embed_stream({key: encoder}, source, [key], space=space, keep=[self.label])
        labels = [row[self.label] for row in kept]
        if None in labels:
            raise UserError(
                f"a sample of {source.shards[0]} has no {self.label!r}; name the field, fields: {{{self.label}: ...}}"
            )
        return x[key], labels

    def warm(self, encoder: Encoder, key: str) -> Encoder:
        """Lets the BatchNorm of random weights see some of the training set."""
        with warming(encoder), torch.inference_mode():
            for samples in chunks(islice(self.train.samples({key}), WARM), 64):
                x = encoder.preprocess.collate([encoder.preprocess(sample[key]) for sample in samples])
                encoder(x.to(encoder.device))
        return encoder


def chosen(trained: Trained, key: str | None) -> str:
    """Returns the key of the encoder to judge: the one named, or the only one."""
    if key is None and len(trained.encoders) > 1:
        raise UserError(f"the run has the encoders {', '.join(trained.encoders)}; say which with encoder")
    found = key or next(iter(trained.encoders))
    if found not in trained.encoders:
        raise UserError(f"there is no encoder {found!r}; {did_you_mean(found, trained.encoders)}")
    return found


def rivals(sets: Labelled, trained: Trained, key: str, *, baselines: bool) -> Iterator[tuple[str, Encoder]]:
    """Yields the encoder under "", and where baselines are wanted before it "raw/" and "random_weights/"."""
    encoder = trained.encoders[key]
    if baselines and encoder.modality in PREPROCESS:
        raw = Raw(encoder.modality)  # type: ignore[arg-type]
        raw.preprocess = encoder.preprocess
        yield "raw/", raw.to(encoder.device).eval()
    if baselines:
        yield "random_weights/", sets.warm(untrained(encoder), key)
    yield "", encoder
