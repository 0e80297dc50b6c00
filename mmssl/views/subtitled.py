"""A window of a film, and the subtitles around it, some of which tell what is seen there."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from mmssl.errors import DamagedError, UserError
from mmssl.modalities import text as texts
from mmssl.schema import Positive
from mmssl.transforms.image import Crop, Flip
from mmssl.types import Preprocess, Sample
from mmssl.views.checks import window
from mmssl.views.composed import Composed
from mmssl.views.template import Views

SUBTITLES = "subtitles"
LATEST = 1e9  # s


class Line(NamedTuple):
    """A subtitle, and the time (s) in its middle; None where nothing is said of it."""

    text: str
    middle: float | None


class Subtitled(Composed):
    """Shows a window of a film around one of its subtitles, drawn at random, and the subtitles nearest to it in time.

    They are the field `subtitles` of a sample: a list of objects with `text` (or `word`), `start` and `end` in seconds,
    or of plain texts, of which the time is not known and any are shown. extra["said"] (B,) is how many of the texts
    that are shown are subtitles; the others are blank. Raises DamagedError for a film without any.

    candidates: subtitles of a window at most.
    """

    def __init__(self, preprocess: Mapping[str, Preprocess], template: Views, *, candidates: Positive = 5) -> None:
        super().__init__(preprocess, template)
        if set(preprocess) != {"video", "text"}:
            raise UserError(f"this view shows a video and its subtitles as text, found {', '.join(preprocess)}")
        if self.prepare["video"].span is None:
            raise UserError("the video encoder spans whole clips; give it fps, so that its window has a moment")
        self.candidates = candidates
        self.shows["text"] = candidates
        self.reads = (self._field("video"), SUBTITLES)

    def __call__(self, sample: Sample) -> Sample:
        if sample.get(self._field("video")) is None or not sample.get(SUBTITLES):
            raise DamagedError("a film without subtitles, or subtitles without a film")
        lines = lines_of(sample[SUBTITLES])
        clip = self.prepare["video"].opened(sample[self._field("video")])
        half = min(window(self.prepare["video"]), clip.duration) / 2
        drawn = random.choice(lines).middle
        moment = random.uniform(half, clip.duration - half) if drawn is None else drawn
        moment = min(max(moment, half), clip.duration - half)
        shown: Sample = {"places": {}, "fields": {}}
        self._show_all("video", clip, [moment], sample, shown)
        near = nearest(lines, moment, self.candidates)
        said = [self.prepare["text"](line.text) for line in near]
        shown["text"] = said + [self.prepare["text"].blank()] * (self.candidates - len(said))
        shown["extra"] = {"said": torch.tensor(len(said))}
        return shown


def nearest(lines: list[Line], moment: float, count: int) -> list[Line]:
    """Returns so many subtitles at most, the nearest in time first; those of which no time is known in random order."""
    mixed = random.sample(lines, len(lines))
    return sorted(mixed, key=lambda line: 0.0 if line.middle is None else abs(line.middle - moment))[:count]


def lines_of(subtitles: Any) -> list[Line]:
    """Reads the subtitles of a sample; DamagedError for anything else than a list as `Subtitled` has it."""
    if not isinstance(subtitles, list) or not subtitles:
        raise DamagedError("subtitles that are no list", f"{subtitles!r:.60}")
    return [_line(each) for each in subtitles]


def _line(given: Any) -> Line:
    if isinstance(given, str):
        return Line(str(texts.load(given)), None)
    about: dict[str, Any] = given if isinstance(given, dict) else {}
    said, start, end = about.get("text", about.get("word")), about.get("start"), about.get("end")
    times = [time for time in (start, end) if isinstance(time, int | float) and abs(time) < LATEST]
    if not isinstance(said, str) or len(times) < 2:
        raise DamagedError("a subtitle that is no text with start and end", f"{given!r:.60}")
    return Line(str(texts.load(said)), (times[0] + times[1]) / 2)


view = Views(1, fixed=True, kind=Subtitled, video=[Crop(scale=(0.5, 1.0)), Flip()])
