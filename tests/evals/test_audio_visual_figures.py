"""Correspondence, figure by figure: which pairs are asked, what they are scored by, nDCG by brute force."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from given import defaults, give, written
from test_audio_visual import Oracle, film
from test_audio_visual import trained as subject
from torch import Tensor

from mmssl import dist
from mmssl.errors import UserError
from mmssl.evals import audio_visual
from mmssl.evals.audio_visual import CUT, KINDS, AudioVisual, compare, ndcg, scores
from mmssl.evals.parts import low_level
from mmssl.evals.parts.compare import Comparer
from mmssl.evals.parts.report import reporting
from mmssl.evals.parts.windows import Question
from mmssl.types import Features


def test_defaults_and_bounds() -> None:
    assert (KINDS, CUT) == (("easy", "hard", "super_hard"), 30)
    assert defaults(AudioVisual) == {
        "task": "avc",
        "windows": 4,
        "hard_gap": 0.5,
        "super_hard_gap": 0.12,
        "label": None,
        "k": (1, 5, 10),
        "baselines": False,
        "limit": None,
        "seed": 0,
        "batch": 16,
    }


@pytest.mark.parametrize(("options", "fine"), [((1, 2), True), ((0, 2), False), ((1, 1), False)])
def test_at_least_a_window_and_two_clips(options: tuple[int, int], fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "mmssl.evals.audio_visual", [])
    made = dict(zip(("windows", "batch"), options, strict=True))
    if fine:
        AudioVisual(data={}, **made)
    else:
        with pytest.raises(UserError, match=r"expected at least 1 and, for easy pairs, 2"):
            AudioVisual(data={}, **made)


def test_it_needs_sight_sound_and_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "mmssl.evals.audio_visual", [{"video": 0, "audio": 0}])
    AudioVisual(data={}).check(subject(Oracle()))
    with pytest.raises(UserError, match="has 'kind'"):
        AudioVisual(data={}, label="kind").check(subject(Oracle()))
    with pytest.raises(UserError, match="'ave' compares no"):
        AudioVisual(data={}, task="ave").check(subject(Oracle()))


def answers(rows: int = 6) -> dict[str, Tensor]:
    found = {name: torch.randn(rows, width) for name, width in (("look", 3), ("sound", 2), ("false_sound", 2))}
    found |= {name: torch.randn(rows, 1) for name in ("together", "false_together")}
    return {**found, "sample": torch.tensor([5, 5, 5, 2, 2, 9])}


def test_each_clip_counts_once_and_a_tie_is_half_right(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers() | {
        "true": torch.tensor([1.0, -1, 2, 3, 0, 0]),
        "false": torch.tensor([0.0, 1, 2, 4, -1, 0]),
    }
    told: list[Any] = []
    for name in ("prefers", "tells"):
        monkeypatch.setattr(low_level, name, lambda *a: told.append(a) or torch.tensor([1.0, 0, 1, 1, 1, 0]))
    found = dict(scores("hard", asked, yes_no=True))
    assert list(found) == ["hard", "hard/yes_no"] == list(dict(scores("hard", asked, yes_no=True)))
    # clip 5: right, wrong, tied; clip 2: wrong, right; clip 9: tied
    assert found["hard"].value == pytest.approx(np.mean([0.5, 0.5, 0.5]))
    # yes above 0 to the true one, no at 0 or below to the false one
    assert found["hard/yes_no"].value == pytest.approx(np.mean([(1 + 0 + 0.5) / 3, (0.5 + 0.5) / 2, 0.5]))
    for score in found.values():
        assert (score.chance, score.n) == (0.5, 3) and isinstance(score.trivial, float)
        assert score.trivial == pytest.approx(np.mean([2 / 3, 1.0, 0.0]))
    for true, false, clip in told[:2]:
        look = (asked["look"] - asked["look"].mean(0)) / asked["look"].std(0)
        both = torch.cat([asked["sound"], asked["false_sound"]])
        sound, other = ((x - both.mean(0)) / both.std(0) for x in (asked["sound"], asked["false_sound"]))
        torch.testing.assert_close(true, low_level.pair_features(look, sound, asked["together"]))
        torch.testing.assert_close(false, low_level.pair_features(look, other, asked["false_together"]))
        assert torch.equal(clip, asked["sample"])
    assert list(dict(scores("easy", asked, yes_no=False))) == ["easy"]


def test_cues_that_never_change_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(low_level, "prefers", lambda *a: told.append(a) or torch.zeros(6))
    flat = answers() | {"look": torch.ones(6, 3), "true": torch.ones(6), "false": torch.zeros(6)}
    dict(scores("easy", flat, yes_no=False))
    assert (told[0][0][:, :3] == 0).all()


def question(level: float, own: float, other: float | None) -> Question:
    sounds = [None if x is None else torch.full((640,), x) for x in (own, other)]
    assert sounds[0] is not None
    return Question(torch.full((3, 16, 8, 8), round(level * 255), dtype=torch.uint8), sounds[0], sounds[1])


class Near(Oracle):
    def log_odds(self, visual: Features, audio: Features) -> Tensor:
        return -(visual.pooled - audio.pooled).abs().mean(1)


def test_the_false_sound_is_the_clips_other_one_or_that_of_the_clip_before() -> None:
    judge = Comparer(subject(Near()), "avc")
    levels = [0.2, 0.4, 0.8]
    found, embedded = compare(judge, [question(x, x + 0.1, x + 0.5) for x in levels])
    assert found["true"].tolist() == pytest.approx([-0.1] * 3, abs=2e-3)
    assert found["false"].tolist() == pytest.approx([-0.5] * 3, abs=2e-3)
    for row, level in enumerate(levels):
        unit = round(level * 255) / 255
        assert found["look"][row].tolist() == pytest.approx([unit, 0, 0], abs=1e-5)
        for name, sound in (("sound", level + 0.1), ("false_sound", level + 0.5)):
            assert found[name][row].tolist() == pytest.approx([math.log(sound**2 + 1e-8)] * 2, abs=1e-4)
    torch.testing.assert_close(embedded["heard"], torch.full((3, 16), 0.25))
    easy, _ = compare(judge, [question(x, x + 0.1, None) for x in levels])
    assert easy["false"].tolist() == pytest.approx([-(0.9 - 0.2), -(0.4 - 0.3), -(0.8 - 0.5)], abs=3e-3)
    torch.testing.assert_close(easy["false_sound"], easy["sound"].roll(1, 0))
    assert compare(judge, [question(0.2, 0.3, None)])[0] == {}, "one clip has nobody's sound to be compared with"
    assert set(compare(judge, [question(0.2, 0.3, 0.4)])[0]) == set(found)


def test_motion_and_sound_are_compared_true_and_false() -> None:
    judge, draw = Comparer(subject(Near()), "avc"), np.random.default_rng(0)
    seen = torch.from_numpy(draw.integers(0, 256, (3, 16, 8, 8), dtype=np.uint8))
    own, other = torch.randn(640), torch.randn(640)
    found, _ = compare(judge, [Question(seen, own, other)])
    assert torch.equal(found["together"], low_level.together(seen[None], own[None]))
    assert torch.equal(found["false_together"], low_level.together(seen[None], other[None]))


def test_a_false_sound_is_judged_with_all_that_was_made_of_it() -> None:
    features = Features(torch.arange(6.0).view(3, 2), torch.arange(12.0).view(3, 2, 2), (2,))
    found = audio_visual._rows(features, torch.tensor([2, 0]))
    assert found.pooled.tolist() == [[4, 5], [0, 1]] and found.grid == (2,)
    assert found.tokens is not None and torch.equal(found.tokens, features.tokens[[2, 0]])  # type: ignore[index]
    assert audio_visual._rows(Features(features.pooled), torch.tensor([1])).tokens is None


def plain_ndcg(scores: list[float], gains: list[int], cut: int) -> float:
    """Of one query; of candidates that tie, those that do not matter come first."""
    ranked = [gain for _, gain in sorted(zip(scores, gains, strict=True), key=lambda pair: (-pair[0], pair[1]))]

    def gained(order: list[int]) -> float:
        return sum(gain / math.log2(place + 2) for place, gain in enumerate(order[:cut]))

    return gained(ranked) / gained(sorted(gains, reverse=True))


@pytest.mark.parametrize("cut", [1, 2, 3, 30])
def test_ndcg_and_its_chance_by_brute_force(cut: int) -> None:
    draw = np.random.default_rng(0)
    table, relevant = draw.integers(0, 3, (6, 6)).astype(float), draw.random((6, 6)) < 0.5
    relevant[2] = False
    relevant[2, 2] = True  # itself only: nothing to find
    value, chance = ndcg(torch.from_numpy(table).float(), torch.from_numpy(relevant), cut=cut)
    expected, by_chance = [], []
    for q in range(6):
        others = [c for c in range(6) if c != q]
        gains = [int(relevant[q, c]) for c in others]
        if any(gains):
            expected.append(plain_ndcg([table[q, c] for c in others], gains, cut))
            orders = itertools.permutations(range(5))
            by_chance.append(np.mean([plain_ndcg([float(x) for x in order], gains, cut) for order in orders]))
    assert 3 < len(expected) < 6 and value.tolist() == pytest.approx(expected)
    assert chance == pytest.approx(np.mean(by_chance))


def judged(monkeypatch: pytest.MonkeyPatch, films: list[Any], whom: Any, **options: Any) -> dict[str, Any]:
    give(monkeypatch, "mmssl.evals.audio_visual", films)
    return written(dict(AudioVisual(data={}, **options).run(whom)))


def test_figures_and_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prefers", "tells"):
        monkeypatch.setattr(low_level, name, lambda true, false, clip: torch.zeros(len(clip)))
    films = [film(n) for n in range(5)]
    found = judged(monkeypatch, films, subject(None), task="clip", windows=1, label="kind", k=(1, 2))
    pairs = [f"{a}-{b}" for a, b in itertools.product(("video", "audio"), repeat=2)]
    expected = ["easy", "hard", "super_hard"]
    for pair in pairs:
        expected.append(f"{pair}/nDCG@30")
        if pair in ("video-audio", "audio-video"):
            expected += [f"{pair}/R@1", f"{pair}/R@2", f"{pair}/median_rank"]
    assert list(found) == expected
    assert all(found[kind].n == 5 for kind in ("easy", "hard", "super_hard"))
    assert found["video-audio/R@2"].chance == pytest.approx(2 / 5) and found["video-audio/R@1"].n == 5
    own = judged(monkeypatch, films, subject(Oracle()), windows=1, label="kind")
    assert list(own) == [
        *("easy", "easy/yes_no", "hard", "hard/yes_no", "super_hard", "super_hard/yes_no"),
        *("video-video/nDCG@30", "audio-audio/nDCG@30"),
    ]
    assert [name for name in judged(monkeypatch, films, subject(None), task="clip", windows=1) if "nDCG" in name] == []


def embeddings(monkeypatch: pytest.MonkeyPatch, films: list[Any], **options: Any) -> Any:
    give(monkeypatch, "mmssl.evals.audio_visual", films)
    return AudioVisual(data={}, task="clip", **options)._answers(Comparer(subject(None), "clip"))


def test_clips_are_embedded_once_with_their_labels_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    films = [film(n) | {"kind": f"k{n % 3}"} for n in range(5)]
    del films[1]["audio"]
    with reporting():
        pairs, clips, labels = embeddings(monkeypatch, films, windows=3, label="kind", batch=2)
    assert clips["sample"].tolist() == [0, 2, 3, 4] and len(clips["seen"]) == len(clips["heard"]) == 4
    assert labels == [str([f"k{n % 3}"]) for n in (0, 2, 3, 4)]
    assert clips["seen"].norm(dim=1).tolist() == pytest.approx([1.0] * 4)
    counts = {kind: int((pairs["kind"] == n).sum()) for n, kind in enumerate(KINDS)}
    # clip 0 and clip 4 are alone in their chunks, so they have no easy pair
    assert counts == {"easy": 2 * 3, "hard": 4 * 3, "super_hard": 4 * 3}
    alone = pairs["sample"][pairs["kind"] == 0].unique().tolist()
    assert alone == [2, 3]


def test_each_relevance_is_by_label(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(low_level, "prefers", lambda true, false, clip: torch.zeros(len(clip)))
    monkeypatch.setattr(audio_visual, "ndcg", lambda s, r, *, cut: told.append((s, r, cut)) or (torch.ones(1), 0.25))
    films = [film(n) | {"kind": kind} for n, kind in enumerate(("b", "a", "b", "c"))]
    found = judged(monkeypatch, films, subject(None), task="clip", windows=1, label="kind")
    same = [[True, False, True, False], [False, True, False, False], [True, False, True, False], [False] * 3 + [True]]
    assert [r.tolist() for _, r, _ in told] == [same] * 4 and [cut for _, _, cut in told] == [30] * 4
    _, clips, _ = embeddings(monkeypatch, films, windows=1)
    sides = (clips["seen"], clips["heard"])
    for (table, _, _), (a, b) in zip(told, itertools.product(sides, sides), strict=True):
        torch.testing.assert_close(table, a @ b.T)
    assert found["video-video/nDCG@30"].chance == 0.25


def test_options_reach_the_asker_and_each_clip_has_a_seed_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Asks:
        def __init__(self, preprocess: Any, visual: str, **options: Any) -> None:
            told.append((visual, options))

        def sample(self, sample: Any, kinds: Any, count: int, rng: Any) -> Any:
            told.append((kinds, count, rng.random()))
            return {}

    monkeypatch.setattr(audio_visual, "WindowSampler", Asks)
    with reporting() as report:
        for seed in (3, 3, 4):
            with pytest.raises(UserError):
                embeddings(monkeypatch, [film(0), film(1)], windows=7, hard_gap=0.9, super_hard_gap=0.2, seed=seed)
    assert report.counts() == {"a clip shorter than a window": 2}
    assert told[0] == ("video", {"hard_gap": 0.9, "super_hard_gap": 0.2})
    assert [row[:2] for row in told[1:3]] == [(KINDS, 7)] * 2
    draws = [row[2] for row in told if len(row) == 3]
    assert draws[:2] == draws[2:4] and len({*draws}) == 4


def test_a_process_takes_every_second_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "world", lambda: 2)
    monkeypatch.setattr(dist, "rank", lambda: 1)
    monkeypatch.setattr(dist, "gather_objects", lambda value: [value])
    _, clips, labels = embeddings(monkeypatch, [film(n) for n in range(7)], windows=1, batch=2, label="kind")
    assert clips["sample"].tolist() == [2, 3, 6] and labels == ["[0]", "[1]", "[0]"]
