"""A window of a film and the subtitles nearest to it: whose they are, how many, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from mmssl.encoders.bpe import byte_tokenizer
from mmssl.errors import DamagedError, UserError
from mmssl.modalities.video import Frames
from mmssl.transforms.text import TextPreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Sample
from mmssl.views.subtitled import Line, nearest, view

FPS, SECONDS = 10, 10
FILM = Frames(np.arange(FPS * SECONDS, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3), FPS)
PREPROCESS: dict[str, Any] = {
    "video": VideoPreprocess(4, frames=2, fps=2.0),
    "text": TextPreprocess(byte_tokenizer()),
}
LINES = [{"text": f"at {n}", "start": n - 0.5, "end": n + 0.5} for n in range(1, 10)]


def shown(subtitles: Any, **options: Any) -> Sample:
    return view(PREPROCESS, **options)({"video": FILM, "subtitles": subtitles})


def seen_at(sample: Sample) -> float:
    """Returns the middle, in s, of the frames that are shown, whose brightness is their number."""
    return (sample["video"][0].float().mean().item() + 0.5) / FPS


def test_what_is_said_is_what_was_said_then() -> None:
    moments = set()
    for seed in range(12):
        random.seed(seed)
        sample = shown(LINES, candidates=3)
        moment = seen_at(sample)
        assert moment == pytest.approx(float(sample["text"][0][3:]), abs=0.2), "around one of them"
        around = sorted(range(1, 10), key=lambda n: abs(n - moment))[:3]
        assert {int(text[3:]) for text in sample["text"]} == set(around) or moment < 2 or moment > 8
        assert sample["extra"]["said"].item() == 3
        moments.add(round(moment))
    assert len(moments) > 4


def test_fewer_subtitles_are_filled_up_with_blanks() -> None:
    sample = shown([{"word": "bin", "start": 4.0, "end": 5}], candidates=3)
    assert sample["text"] == ["bin", "", ""] and sample["extra"]["said"].item() == 1
    assert seen_at(sample) == pytest.approx(4.5, abs=0.2)
    late = shown([{"text": "after the end", "start": 50, "end": 60}])
    assert seen_at(late) == pytest.approx(SECONDS - 0.5, abs=0.2)


def test_subtitles_without_times_are_drawn() -> None:
    random.seed(0)
    several = [shown(["a", "b", "c"], candidates=2) for _ in range(40)]
    pairs = {tuple(sample["text"]) for sample in several}
    assert pairs == {(x, y) for x in "abc" for y in "abc" if x != y}
    assert len({round(seen_at(sample)) for sample in several}) > 5


def test_the_nearest_come_first() -> None:
    lines = [Line("far", 9.0), Line("near", 4.0), Line("nearer", 5.5)]
    assert [line.text for line in nearest(lines, 5.0, 2)] == ["nearer", "near"]


@pytest.mark.parametrize(
    ("subtitles", "reason"),
    [
        (None, "a film without subtitles"),
        ([], "a film without subtitles"),
        ("a text", "subtitles that are no list"),
        ([{"text": "x", "start": 1.0}], "a subtitle that is no text with start and end"),
        ([{"text": 3, "start": 1.0, "end": 2.0}], "a subtitle that is no text with start and end"),
        ([{"text": "x", "start": float("nan"), "end": 2.0}], "a subtitle that is no text with start and end"),
        ([7], "a subtitle that is no text with start and end"),
        ([" "], "empty text"),
    ],
)
def test_what_cannot_be_shown_is_left_out(subtitles: Any, reason: str) -> None:
    with pytest.raises(DamagedError, match=reason):
        shown(subtitles)


def test_what_it_needs() -> None:
    assert view(PREPROCESS).reads == ("video", "subtitles") and view(PREPROCESS).shows == {"video": 1, "text": 5}
    with pytest.raises(UserError, match="a video and its subtitles as text, found video"):
        view({"video": PREPROCESS["video"]})
    with pytest.raises(UserError, match="spans whole clips; give it fps"):
        view({"video": VideoPreprocess(4, frames=2), "text": PREPROCESS["text"]})
