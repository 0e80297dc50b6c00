"""Questions about image and sound: where in a clip both are taken, true and false, and what is shown of it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from mmssl.evals.parts.sounding import shown
from mmssl.modalities.audio import Waveform
from mmssl.types import Sample
from mmssl.views.synchronised import SHORTFALL

Kind = Literal["easy", "hard", "super_hard"]
GRID = 0.04  # s; windows start on it, true and false ones alike (Arandjelovic & Zisserman, ECCV 2018)


@dataclass(slots=True)
class Question:
    """What is seen at one moment, what is heard then, and what is heard at another; the latter is None if easy."""

    visual: Tensor
    positive: Tensor
    negative: Tensor | None


@dataclass(slots=True)
class WindowSampler:
    """Cuts the questions of one kind after the other out of a clip.

    preprocess: encoder's key -> its preprocessing. visual: "image" or "video". The false sound of a hard pair is
    `hard_gap` seconds or more from the true one, that of a super-hard pair nearer, but `super_hard_gap` or more.
    """

    preprocess: Mapping[str, Any]
    visual: str
    hard_gap: float = 0.5
    super_hard_gap: float = 0.12

    def sample(
        self, sample: Sample, kinds: Sequence[Kind], count: int, rng: random.Random
    ) -> dict[Kind, list[Question]]:
        """Returns for each kind that the clip has room for `count` questions; for one shorter than a window none."""
        sound = self.preprocess["audio"].opened(sample["audio"])
        rate = self.preprocess["audio"].sample_rate
        heard = Waveform(sound.read(sample_rate=rate), rate)  # decoded once, however many windows there are
        seen = sample[self.visual]
        if not hasattr(seen, "frames"):  # a still image belongs to all of its sound
            return {
                "easy": [Question(self.preprocess[self.visual](seen), self.preprocess["audio"](heard), None)] * count
            }
        span, end = max(self._span(seen), self.preprocess["audio"].seconds), min(seen.duration, sound.duration)
        if end < span - SHORTFALL:
            return {}
        starts = {}
        for kind in kinds:
            drawn = [self._pair(kind, span, max(0.0, end - span), rng) for _ in range(count)]
            if drawn[0] is not None:
                starts[kind] = [pair for pair in drawn if pair is not None]
        every = [true + span / 2 for pairs in starts.values() for true, _ in pairs]
        views = iter(self._shown(seen, every))
        return {
            kind: [
                Question(
                    next(views),
                    self._heard(heard, true + span / 2),
                    None if kind == "easy" else self._heard(heard, false + span / 2),
                )
                for true, false in pairs
            ]
            for kind, pairs in starts.items()
        }

    def _span(self, seen: Any) -> float:
        """Returns how many seconds are seen: none of a single image."""
        if self.visual == "image":
            return 0.0
        return seen.duration if self.preprocess["video"].span is None else self.preprocess["video"].span

    def _pair(self, kind: Kind, span: float, last: float, rng: random.Random) -> tuple[float, float] | None:
        """Draws where the true and the false window start, in seconds, each ordered pair on the grid equally likely.

        So neither the true nor the false sound tells by itself which of the two it is. None if there is no room.
        """
        steps = int(last / GRID + 1e-6)
        least, most = {
            "easy": (0, 0),
            "hard": (steps_up(self.hard_gap), steps),
            "super_hard": (steps_up(self.super_hard_gap), steps_up(min(self.hard_gap, span)) - 1),
        }[kind]
        gaps = range(least, min(most, steps) + 1)
        if not gaps:
            return None
        if kind == "easy":
            start = rng.randint(0, steps) * GRID
            return start, start
        distance = rng.choices(gaps, [steps + 1 - d for d in gaps])[0]
        first = rng.randint(0, steps - distance)
        pair = (first * GRID, (first + distance) * GRID)
        return pair if rng.random() < 0.5 else pair[::-1]

    def _shown(self, clip: Any, moments: list[float]) -> list[Tensor]:
        """Returns what is seen about each moment; the clip is played once."""
        preprocess = self.preprocess[self.visual]
        if self.visual == "image":
            pictures = clip.frames(moments, min_size=2 * preprocess.size)
            return [shown(self.preprocess, "image", picture[None]) for picture in pictures]
        times = [preprocess.times(clip, moment - self._span(clip) / 2) for moment in moments]
        pictures = clip.frames([t for window in times for t in window], min_size=preprocess.size)
        return [shown(self.preprocess, "video", part) for part in np.split(pictures, len(moments))]

    def _heard(self, sound: Waveform, moment: float) -> Tensor:
        preprocess = self.preprocess["audio"]
        return preprocess.window(sound, moment - preprocess.seconds / 2)


def steps_up(seconds: float) -> int:
    """Returns the least whole number of steps of the grid that last so long."""
    return int(np.ceil(seconds / GRID - 1e-6))
