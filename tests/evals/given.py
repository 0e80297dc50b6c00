"""Samples in memory that stand in for shards, and an evaluation's defaults."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pytest

from mmssl import dist
from mmssl.data.shards import Source
from mmssl.data.tar import Entry
from mmssl.errors import UserError
from mmssl.types import Score

PLAIN = {"baselines": False, "limit": None}  # options of evaluations that need no training set


class Given(Source):
    """Samples that are opened already, sample i for rank i % world. asked: what was read, once for each pass."""

    def __init__(self, samples: Sequence[dict[str, Any]]) -> None:
        self.made, self.shards, self.fields, self.damaged = list(samples), ["given.tar"], {}, Counter()
        self.asked: list[set[str]] = []

    @property
    def counts(self) -> list[int]:
        return [len(self.made)]

    def entries(self, shard: int, *, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Entry]:
        for number in range(len(self.made))[start:stop:step]:
            yield Entry(str(self.made[number].get("__key__", number)), "given.tar", {}, number=number)

    def open(self, entry: Entry, wanted: Collection[str]) -> dict[str, Any]:
        if entry.number == dist.rank():
            self.asked.append(set(wanted))
        about = {"__key__": entry.key, "__shard__": "given.tar", "__number__": entry.number}
        return {**{key: self.made[entry.number][key] for key in wanted if key in self.made[entry.number]}, **about}

    def check(self, wanted: Collection[str]) -> None:
        missing = [] if not self.made else [key for key in wanted if not any(key in sample for sample in self.made)]
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
