"""An image or video and its sound of one moment, for tasks that ask whether two belong together."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmssl.errors import DamagedError, LackingError, UserError
from mmssl.modalities.audio import Waveform
from mmssl.modalities.sped import Sped
from mmssl.transforms.audio import Gain
from mmssl.transforms.base import check_range
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Batch, Preprocess, Sample
from mmssl.views.checks import window
from mmssl.views.composed import Composed
from mmssl.views.template import Views

OFF_GRID, EASY, HARD, SUPER_HARD = -1, 0, 1, 2
"""Kinds of second sound: of another moment, off the grid; none; of a moment well apart; of one that overlaps."""

SILENCE = 1e-4  # peak level, -80 dB, at which there is nothing to hear
SHORTFALL = 0.05  # s that a track may lack at its end; it is filled as the preprocessing fills it
SHORT = 10.0  # s of video whose sound is decoded whole, in one pass, instead of measured and then read by windows
NOTICED = 0.12  # s that sound must be shifted before people notice it (ITU-R BT.1359)


@dataclass(frozen=True, slots=True)
class Places:
    """The moments that a window's middle may take: `first` + k * `grid` (s), k from 0 to `last`."""

    first: float
    grid: float
    last: int

    def time(self, place: float) -> float:
        return self.first + min(max(place, 0.0), self.last) * self.grid

    def apart(self, place: int, near: float, far: float = math.inf) -> list[int]:
        """Returns the places from `near` to, but not at, `far` seconds before or after a place."""
        return [p for p in range(self.last + 1) if near - 1e-6 <= abs(p - place) * self.grid < far - 1e-6]


class Synchronised(Composed):
    """Shows one frame of a video, a window of it or a still image, and the sound of the same moment.

    A still image has no time, and its sound, which may be shorter than the window, ends in silence.
    Raises LackingError for a video without sound, sound without image and silence, and DamagedError for a clip shorter
    than the window.

    grid: seconds between the moments that are shown, the same for every clip; the sound of one clip is the wrong one
        for another, so wrong sounds lie on the grid as well.
    negatives_on_grid: false shows a second sound of each clip, at any moment, to be the wrong one: the shortcut that
        Arandjelovic & Zisserman (ECCV 2018) found.
    speed: range of the factor by which a clip is shown faster or slower, image and sound by the same, so that they stay
        in sync while the voice changes its pitch; as far as the clip is long enough. Another clip's sound has a factor
        of its own, which may tell that it is the wrong one; a second sound of the clip (`hard`) has the same.
    """

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        template: Views,
        *,
        grid: float = 0.04,
        negatives_on_grid: bool = True,
        speed: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__(preprocess, template)
        if grid <= 0:
            raise UserError(f"grid is {grid}; expected seconds above 0, such as 0.04")
        check_range("speed", speed, 0.1, 10.0)
        self.visual = next((key for key in preprocess if key != "audio"), "")
        if set(preprocess) not in ({"image", "audio"}, {"video", "audio"}):
            raise UserError(f"this view shows image or video with audio, found {', '.join(preprocess)}")
        if self.visual == "video" and self.prepare["video"].span is None:
            raise UserError("the video encoder spans whole clips; give it fps, so that its window has a moment")
        self.grid, self.negatives_on_grid, self.speed = grid, negatives_on_grid, speed
        self.second = not negatives_on_grid
        self.shows = {self.visual: 1, "audio": 1 + self.second}

    def __call__(self, sample: Sample) -> Sample:
        if sample.get("audio") is None:
            raise LackingError("a video without sound")
        if sample.get(self.visual) is None:
            raise LackingError(f"sound without {self.visual}")
        seen, sound = sample[self.visual], self.prepare["audio"].opened(sample["audio"])
        if self.visual == "video":
            seen = self.prepare["video"].opened(seen)
        if getattr(seen, "duration", math.inf) <= SHORT:
            rate = self.prepare["audio"].sample_rate
            sound = Waveform(sound.read(sample_rate=rate), rate)
        factor = self._factor(seen, sound)
        seen, sound = Sped(seen, factor) if hasattr(seen, "duration") else seen, Sped(sound, factor)
        places = self._places(seen, sound)
        place = random.randint(0, places.last)
        shown: Sample = {"places": {}, "fields": {}}
        self._show_all(self.visual, seen, [places.time(place)], sample, shown)
        for where in shown["places"].get("video", ()):
            where[2, 2:] *= factor  # in seconds of the clip as it is
        shown["audio"] = [self._heard(sound, places.time(place))]
        if self.second:
            kind, moment = self._second(places, place)
            shown["audio"] += [shown["audio"][0] if moment is None else self._heard(sound, moment)]
            shown["extra"] = {"kind": torch.tensor(kind)}
        return shown

    def _factor(self, seen: Any, sound: Any) -> float:
        """Draws how many times as fast a clip is shown."""
        low, high = self.speed
        if hasattr(seen, "duration"):
            span, end = self._lasting(seen, sound)
            high = max(low, min(high, end / span))
        return random.uniform(low, high) if low < high else low

    def _lasting(self, seen: Any, sound: Any) -> tuple[float, float]:
        """Returns how many seconds are shown of how many."""
        span, end = window(self.prepare["audio"]), sound.duration
        if hasattr(seen, "duration"):
            span, end = max(span, window(self.prepare[self.visual])), min(end, seen.duration)
        return span, end

    def _places(self, seen: Any, sound: Any) -> Places:
        """Returns where the windows' middle may lie."""
        span, end = self._lasting(seen, sound)
        if hasattr(seen, "duration") and end < span - SHORTFALL:
            raise DamagedError("a clip shorter than the window", f"{end:.2f} s of {span:.2f} s")
        room = max(0.0, end - span)
        return Places(span / 2, self.grid, math.floor(room / self.grid + 1e-6))

    def _heard(self, sound: Any, moment: float) -> Tensor:
        samples = self.heard("audio", sound, moment, self.steps["audio"][0])
        if samples.abs().max() < SILENCE:
            raise LackingError("silent sound")
        return samples

    def _second(self, places: Places, place: int) -> tuple[int, float | None]:
        """Draws the kind of the second sound and its moment, None if it is the first one again."""
        return OFF_GRID, self._time(places, random.randint(0, places.last))

    def _time(self, places: Places, place: int) -> float:
        return places.time(place if self.negatives_on_grid else place + random.uniform(-0.5, 0.5))


class Shifted(Synchronised):
    """Shows a second sound of the clip, out of sync; `extra["kind"]` (B,) says which kind it is, 0 where it is none.

    A clip with no room for it has none, and is matched against other clips' sound. The curriculum of AVTS is easy for
    50 of 90 epochs, then a quarter hard (Korbar et al., NeurIPS 2018).

    hard: share of clips whose second sound is at least `apart` seconds from the first.
    super_hard: share of clips whose second sound is nearer but noticeably off.
    apart: seconds between a hard pair's moments.
    easy_until: how far into training, from 0 to 1, other clips' sound is all there is.
    rise: the part of training, from 0 to 1, in which the shares then rise evenly from none to what they are.
    grid: seconds between the moments that are shown.
    negatives_on_grid: whether a second sound's moment lies on the grid too.
    speed: range of the factor by which a clip is shown faster or slower, image and both sounds by the same.
    """

    def __init__(
        self,
        preprocess: Mapping[str, Preprocess],
        template: Views,
        *,
        hard: float = 0.25,
        super_hard: float = 0.0,
        apart: float = 0.5,
        easy_until: float = 0.55,
        rise: float = 0.0,
        grid: float = 0.04,
        negatives_on_grid: bool = True,
        speed: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__(preprocess, template, grid=grid, negatives_on_grid=negatives_on_grid, speed=speed)
        if min(hard, super_hard) < 0 or hard + super_hard > 1:
            raise UserError(f"hard is {hard} and super_hard {super_hard}; expected shares of at most 1 together")
        if apart <= NOTICED:
            raise UserError(f"apart is {apart}; expected more seconds than the {NOTICED} from which shifts are noticed")
        if not 0 <= rise <= 1:
            raise UserError(f"rise is {rise}; expected a part of training, from 0 to 1")
        self.hard, self.super_hard, self.apart = hard, super_hard, apart
        self.easy_until, self.rise = easy_until, rise
        self.second, self.shows = True, {self.visual: 1, "audio": 2}

    def _second(self, places: Places, place: int) -> tuple[int, float | None]:
        drawn = random.random()
        if drawn < self.hard:
            kind, options = HARD, places.apart(place, self.apart)
        elif drawn < self.hard + self.super_hard:
            kind, options = SUPER_HARD, places.apart(place, NOTICED, min(self.apart, window(self.prepare["audio"])))
        elif self.negatives_on_grid:
            return EASY, None
        else:
            return super()._second(places, place)
        return (kind, self._time(places, random.choice(options))) if options else (EASY, None)

    def on_device(self, batch: Batch) -> Batch:
        batch = super().on_device(batch)
        kind, since = batch.extra["kind"], self.progress - self.easy_until
        if since < 0:
            batch.extra["kind"] = kind.clamp(max=EASY)
        elif since < self.rise:
            kept = torch.rand(kind.shape, device=kind.device) < since / self.rise
            batch.extra["kind"] = kind.where(kept, kind.clamp(max=EASY))
        return batch


STEPS: dict[str, Any] = {
    "image": [Crop(scale=(0.75, 1.0), ratio=(1.0, 1.0)), Flip()],  # flips do not change what is heard
    "audio": [Gain(decibels=1.0)],
}
GUARDS = {"time_grid": {"negatives_on_grid": False}}

view = Views(1, fixed=True, kind=Synchronised, guards=GUARDS, **STEPS)
shifted = Views(1, fixed=True, kind=Shifted, guards=GUARDS, **STEPS)
