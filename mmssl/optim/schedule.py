"""Values that change over a run: the learning rate, momentum, temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def warmup_cosine(step: int, *, steps: int, warmup: int, final: float = 0.0) -> float:
    """Returns the factor on the peak rate at a step: a linear rise over `warmup` steps, then half a cosine.

    step counts from 0; the factor is 1 at step `warmup` and `final` at the end. Loshchilov & Hutter, ICLR 2017.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * done))


def cosine(done: float, *, start: float, end: float) -> float:
    """Returns a value on half a cosine from start to end, when `done`, 0 to 1, of training is over."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * done))


def ramp(done: float, *, start: float, end: float, over: float) -> float:
    """Returns a value on a line from start to end, which it reaches when the share `over` of training is over."""
    return end if done >= over else start + (end - start) * done / over


@dataclass(frozen=True, slots=True)
class Rate:
    """The learning rate of a group of weights over a run of so many steps.

    peak: the highest. scale: a factor on it, as layer decay has one. warmup, final: as warmup_cosine has them.
    """

    peak: float
    scale: float
    warmup: int
    final: float

    @classmethod
    def of(cls, group: Mapping[str, Any], *, warmup: int, final: float) -> Rate:
        """Reads it off a group of an optimizer: `lr`, and `lr_scale`, `warmup` and `final_lr` where it has them."""
        return cls(group["lr"], group.get("lr_scale", 1.0), group.get("warmup", warmup), group.get("final_lr", final))

    def at(self, step: int, *, steps: int) -> float:
        """Returns the rate at a step, before the factor of its layer."""
        return self.peak * warmup_cosine(step, steps=steps, warmup=self.warmup, final=self.final)
