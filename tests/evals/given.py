"""Samples in memory that stand in for shards, and an evaluation's defaults."""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pytest

from mmssl.data.shards import Source
from mmssl.errors import UserError
from mmssl.types import Score


class Given(Source):
    """Yields what was asked of each sample, sample i to rank i % world."""

    def __init__(self, samples: Sequence[dict[str, Any]]) -> None:
        self.made, self.shards, self.fields = list(samples), ["given.tar"], {}
        self.asked: list[set[str]] = []

    def samples(self, wanted: Collection[str], *, rank: int = 0, world: int = 1) -> Iterator[dict[str, Any]]:
        self.asked.append(set(wanted))
        for number, sample in list(enumerate(self.made))[rank::world]:
            about = {"__key__": str(number), "__shard__": "given.tar", "__number__": number}
            yield {**{key: sample[key] for key in wanted if key in sample}, **about}

    def check(self, wanted: Collection[str]) -> None:
        missing = [key for key in wanted if not any(key in sample for sample in self.made)]
        if missing:
            raise UserError(f"no sample of given.tar has {missing[0]!r}")


def give(monkeypatch: pytest.MonkeyPatch, module: str, samples: Sequence[dict[str, Any]]) -> Given:
    """Makes a module open these samples, whatever shards it is told."""
    source = Given(samples)
    monkeypatch.setattr(f"{module}.open_source", lambda data: source)
    return source


def written(scores: Mapping[str, Score]) -> dict[str, Score]:
    """Returns scores, once they have been written as JSON: a tensor in one would end a run after all its work."""
    json.dumps({name: asdict(score) for name, score in scores.items()})
    return dict(scores)


def defaults(function: Any) -> dict[str, Any]:
    """Returns option -> default of a class or function."""
    found = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in found if p.default is not inspect.Parameter.empty}
