"""What a run's checkpoint holds, so that one which lacks a part is known before anything is taken from it."""

from __future__ import annotations

from typing import Any, TypedDict

from torch import Tensor

from mmssl.data.loader import LoaderState
from mmssl.schema import Count


class _Random(TypedDict):
    cpu: Tensor


class _Optimizer(TypedDict):
    state: dict[int, Any]
    param_groups: list[dict[str, Any]]


class State(TypedDict):
    """What `Trainer.save` writes; streams, task -> where its loader stands, and random: of each process."""

    step: Count
    model: dict[str, Any]
    optimizer: _Optimizer
    averaged: dict[str, Any] | None
    bad_steps: Tensor
    streams: list[dict[str, LoaderState]]
    random: list[_Random]
