"""Samples that hang or kill the process that shows them, and as many that are only damaged, to compare with."""

from __future__ import annotations

import ctypes
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from numbered import Numbers, Shown

from mmssl.data.timer import TOO_LONG
from mmssl.errors import DamagedError
from mmssl.types import Preprocess, Sample


def hang() -> None:
    """Stays in C code for years, without letting other threads run."""
    re.match(r"(a+)+$", "a" * 80 + "b")


def crash() -> None:
    """Reads where nothing is."""
    ctypes.string_at(0)


WAYS: dict[str, tuple[Callable[[], Any], str]] = {
    "hang": (hang, TOO_LONG),
    "crash": (crash, "a sample that ended its data worker (SIGSEGV)"),
    "exit": (lambda: os._exit(3), "a sample that ended its data worker (exit code 3)"),
    "kill": (
        lambda: signal.raise_signal(signal.SIGKILL),
        "a sample that ended its data worker (SIGKILL, out of memory?)",
    ),
}


class Killing(Shown):
    """Shows numbers; each of `ends` hangs or kills in its way, or where they are spared is damaged for that reason."""

    def __init__(self, preprocess: dict[str, Preprocess], ends: dict[int, str], *, spared: bool = False) -> None:
        super().__init__(preprocess)
        self.ends, self.spared = ends, spared

    def __call__(self, sample: Sample) -> Sample:
        shown = super().__call__(sample)
        way = self.ends.get(int(shown["text"][0]))
        if way:
            end, reason = WAYS[way]
            if self.spared:
                raise DamagedError(reason)
            end()
        return shown


@dataclass
class KillingNumbers(Numbers):
    """Numbers of which some kill where they are collated (`late`), or hang where they are prepared."""

    late: list[int] = field(default_factory=list)
    hanging: list[int] = field(default_factory=list)

    def __call__(self, raw: Any) -> float:
        if int(raw) in self.hanging:
            hang()
        return super().__call__(raw)

    def collate(self, items: Sequence[Any]) -> torch.Tensor:
        if set(self.late) & set(items):
            os._exit(3)
        return super().collate(items)
