"""Questions about image and sound: which windows may be drawn, and that all of one question is of one moment."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from given import defaults

from mmssl.evals.parts.windows import GRID, Kind, Question, WindowSampler, steps_up
from mmssl.modalities.audio import Waveform
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.views.synchronised import SHORTFALL

RATE = 1000


class Clock:
    """A video whose images tell the time, in hundredths of a second as grey levels, and what was asked of it."""

    def __init__(self, duration: float) -> None:
        self.duration, self.asked = duration, list[tuple[list[float], Any]]()

    def frames(self, times: list[float], *, min_size: int | None = None) -> np.ndarray:
        self.asked.append((times, min_size))
        levels = np.clip(np.round(np.array(times) * 100), 0, 255).astype(np.uint8)
        return np.broadcast_to(levels[:, None, None, None], (len(times), 8, 8, 3)).copy()


def ticking(duration: float) -> Waveform:
    """A sound whose samples are the time in seconds."""
    return Waveform(torch.arange(round(duration * RATE)) / RATE, RATE)


def sampler(visual: str = "video", *, seconds: float = 0.4, **options: Any) -> WindowSampler:
    seen: Any = {"video": VideoPreprocess(size=8, frames=4, fps=10), "image": ImagePreprocess(size=8)}[visual]
    return WindowSampler({visual: seen, "audio": AudioPreprocess(sample_rate=RATE, seconds=seconds)}, visual, **options)


def ask(made: WindowSampler, seen: Any, sound: float, *, count: int = 3, seed: int = 0) -> dict[Kind, list[Question]]:
    sample = {made.visual: seen, "audio": ticking(sound)}
    return made.sample(sample, ("easy", "hard", "super_hard"), count, random.Random(seed))


def test_defaults() -> None:
    # Windows lie on 40 ms (Arandjelovic & Zisserman, ECCV 2018), shifts of 120 ms are noticed (ITU-R BT.1359).
    assert GRID == 0.04
    assert defaults(WindowSampler) == {"hard_gap": 0.5, "super_hard_gap": 0.12}
    assert SHORTFALL == 0.05


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, 0), (0.04, 1), (0.041, 2), (0.12, 3), (0.5, 13), (0.52, 13)])
def test_steps_that_last_so_long(seconds: float, steps: int) -> None:
    assert steps_up(seconds) == steps


@pytest.mark.parametrize(
    ("kind", "span", "hard_gap", "least", "most"),
    [
        ("easy", 1.0, 0.2, 0, 0),
        ("hard", 1.0, 0.2, 5, 10),
        ("super_hard", 1.0, 0.2, 2, 4),  # nearer than `hard_gap`
        ("super_hard", 0.15, 0.2, 2, 3),  # and overlapping
        ("super_hard", 1.0, 9.0, 2, 10),  # and within the clip
    ],
)
def test_every_allowed_ordered_pair_is_equally_likely(
    kind: Kind, span: float, hard_gap: float, least: int, most: int
) -> None:
    made, rng = WindowSampler({}, "video", hard_gap=hard_gap, super_hard_gap=0.08), random.Random(0)
    allowed = [(a, b) for a in range(11) for b in range(11) if least <= abs(a - b) <= most]
    each = 100
    drawn = [made._pair(kind, span, 0.4, rng) for _ in range(each * len(allowed))]
    counts = Counter((round(pair[0] / GRID), round(pair[1] / GRID)) for pair in drawn if pair is not None)
    assert set(counts) == set(allowed)
    assert all(abs(counts[pair] - each) < 5 * each**0.5 for pair in allowed)


@pytest.mark.parametrize(("kind", "least"), [("hard", 0.5), ("super_hard", 0.12)])
def test_a_pair_needs_room_for_its_least_distance(kind: Kind, least: float) -> None:
    made, rng = WindowSampler({}, "video"), random.Random(0)
    needed = steps_up(least) * GRID
    assert made._pair(kind, 1.0, needed - 0.01, rng) is None
    exactly = made._pair(kind, 1.0, needed, rng)
    assert exactly is not None and sorted(exactly) == pytest.approx([0.0, needed])
    none = WindowSampler(
        {}, "video", super_hard_gap=0.5
    )  # nothing lies nearer than `hard_gap` and no nearer than `super_hard_gap`
    assert none._pair("super_hard", 1.0, 2.0, rng) is None


@pytest.mark.parametrize("seconds", [0.4, 0.2, 0.8])
@pytest.mark.parametrize("visual", ["video", "image"])
def test_what_is_seen_and_heard_is_of_one_moment_whichever_lasts_longer(visual: str, seconds: float) -> None:
    film = Clock(2.4)
    found = ask(sampler(visual, seconds=seconds), film, 2.4)
    assert {kind: len(several) for kind, several in found.items()} == {"easy": 3, "hard": 3, "super_hard": 3}
    starts = []
    for kind, questions in found.items():
        for question in questions:
            shown = float(question.visual.float().mean()) / 100
            heard = float(question.positive.mean()) + 0.5 / RATE
            assert shown == pytest.approx(heard, abs=0.006)
            assert len(question.positive) == seconds * RATE
            assert question.visual.shape == ((3, 4, 8, 8) if visual == "video" else (3, 8, 8))
            starts.append(heard - max(seconds, 0.4 if visual == "video" else 0.0) / 2)
            if kind == "easy":
                assert question.negative is None
            else:
                assert question.negative is not None
                away = abs(float(question.negative.mean()) + 0.5 / RATE - heard)
                span = max(seconds, 0.4 if visual == "video" else 0.0)
                low, high = (0.52, 2.0) if kind == "hard" else (0.12, min(0.48, span))
                assert low - 1e-4 <= away <= high + 1e-4
    np.testing.assert_allclose(np.array(starts) / GRID, np.round(np.array(starts) / GRID), atol=0.01)
    [(_, size)] = film.asked  # played once
    assert size == (8 if visual == "video" else 16)


@pytest.mark.parametrize(
    ("film", "sound", "asked"),
    [(0.4, 0.4, True), (0.36, 0.4, True), (0.4, 0.36, True), (0.34, 2.0, False), (2.0, 0.34, False)],
)
def test_a_film_that_is_shorter_than_a_window_is_not_asked_about(film: float, sound: float, asked: bool) -> None:
    found = ask(sampler(), Clock(film), sound)
    assert list(found) == (["easy"] if asked else [])
    for question in found.get("easy", ()):
        assert float(question.visual[0, 0, 0, 0]) == 5, "the first of four images in 0.4 s"


def test_windows_stay_within_film_and_sound() -> None:
    for film, sound in ((1.0, 2.0), (2.0, 1.0)):
        questions = [q for several in ask(sampler(), Clock(film), sound, count=40).values() for q in several]
        ends = [float(s[-1]) for q in questions for s in (q.positive, q.negative) if s is not None]
        assert max(ends) < 1.0 and max(ends) > 0.9
        assert max(float(q.visual.max()) for q in questions) <= 100


def test_a_film_without_a_span_is_seen_whole() -> None:
    made = WindowSampler({"video": VideoPreprocess(size=8, frames=4), "audio": AudioPreprocess(RATE, 0.4)}, "video")
    found = ask(made, Clock(1.0), 1.0)
    assert list(found) == ["easy"]
    for question in found["easy"]:
        assert question.visual[0, :, 0, 0].tolist() == [12, 38, 62, 88]
        assert float(question.positive.mean()) == pytest.approx(0.5, abs=1e-3)


def test_a_still_picture_belongs_to_all_of_its_sound() -> None:
    still = np.full((8, 8, 3), 7, np.uint8)
    found = ask(sampler("image"), still, 1.0, count=2)
    assert list(found) == ["easy"] and len(found["easy"]) == 2
    question = found["easy"][0]
    assert (question.visual == 7).all() and question.negative is None
    assert float(question.positive.mean()) == pytest.approx(0.5, abs=1e-3), "its middle"


def test_the_same_generator_asks_the_same() -> None:
    def moments(seed: int) -> list[float]:
        found = ask(sampler(), Clock(3.0), 3.0, seed=seed)
        return [float(q.positive[0]) for several in found.values() for q in several]

    assert moments(1) == moments(1) != moments(2)
