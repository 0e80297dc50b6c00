"""Correspondence of image and sound: an oracle is right, a guesser at chance, the windows are fair."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from given import Given
from PIL import Image
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.evals.audio_visual import AudioVisual, ndcg
from mmssl.evals.parts import low_level
from mmssl.evals.parts.compare import Comparer
from mmssl.evals.parts.report import reporting
from mmssl.evals.parts.windows import GRID, Kind, WindowSampler
from mmssl.modalities.audio import Waveform
from mmssl.modalities.video import Frames
from mmssl.transforms.audio import AudioPreprocess
from mmssl.transforms.image import ImagePreprocess
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Features, Head, Pretext, Trained, View

RATE, FPS, SECONDS, CLIPS = 1000, 25, 3.0, 8
DATA: dict[str, Any] = {"shards": "films"}


def film(clip: int) -> dict[str, Any]:
    """A video of flat images whose random brightness, frame by frame, is the level of its sound."""
    level = np.random.default_rng(clip).integers(0, 256, round(SECONDS * FPS)) / 255
    pictures = np.broadcast_to((level * 255).round()[:, None, None, None], (len(level), 8, 8, 3)).astype(np.uint8)
    sound = torch.from_numpy(np.repeat(level, RATE // FPS)).float()
    return {"video": Frames(pictures, FPS), "audio": Waveform(sound, RATE), "kind": clip % 2, "__key__": str(clip)}


class Levels(nn.Module):
    """An encoder whose features are the levels of what it sees or hears, from frame to frame."""

    dim, device = 16, torch.device("cpu")

    def __init__(self, preprocess: Any) -> None:
        super().__init__()
        self.preprocess, self.modality, self.spaces = preprocess, preprocess.modality, dict[str, Head]()

    def forward(self, x: Tensor) -> Features:
        if self.modality == "audio":
            return Features(x.unflatten(1, (-1, RATE // FPS)).mean(2))
        return Features((x.float() / 255).mean((1, 3, 4)) if x.ndim == 5 else x.float().mean((1, 2, 3))[:, None] / 255)


class Oracle(nn.Module):
    """Says yes where image and sound have the same levels."""

    visual = "video"

    def log_odds(self, visual: Features, audio: Features) -> Tensor:
        return 0.01 - (visual.pooled - audio.pooled).abs().amax(1)


class Guesser(Oracle):
    def log_odds(self, visual: Features, audio: Features) -> Tensor:
        return torch.randn(len(visual.pooled))


class Centred(Head):
    """Videos: the levels about their mean. Still images: the level as a place on a half circle."""

    def forward(self, features: Features) -> Tensor:
        angle = features.pooled.mean(1) * torch.pi
        return torch.cat([angle.cos()[:, None], angle.sin()[:, None], 9 * (features.pooled[:, :16] - 0.5)], dim=1)


class OnCircle(Centred):
    def forward(self, features: Features) -> Tensor:
        return super().forward(features)[:, :2]


def trained(objective: nn.Module | None, *, frames: int = 16, visual: str = "video") -> Trained:
    seen = VideoPreprocess(size=8, frames=frames, fps=FPS) if visual == "video" else ImagePreprocess(size=8)
    encoders: Any = {visual: Levels(seen), "audio": Levels(AudioPreprocess(sample_rate=RATE, seconds=frames / FPS))}
    if objective is None:
        for encoder in encoders.values():
            encoder.spaces["clip"] = Centred() if visual == "video" else OnCircle()
        return Trained(encoders)
    return Trained(encoders, {"avc": Pretext(objective, View, {})})  # type: ignore[arg-type]


def judged(monkeypatch: pytest.MonkeyPatch, subject: Trained, samples: list[Any] | None = None, **options: Any) -> Any:
    films = [film(clip) for clip in range(CLIPS)] if samples is None else samples
    monkeypatch.setattr("mmssl.evals.audio_visual.open_source", lambda data: Given(films))
    return dict(AudioVisual(data=DATA, **options).run(subject))


def test_an_oracle_is_always_right_and_a_guesser_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(monkeypatch, trained(Oracle()), label="kind")
    for kind in ("easy", "hard", "super_hard"):
        assert found[kind].value == found[f"{kind}/yes_no"].value == 1.0
        assert (found[kind].chance, found[kind].n) == (0.5, CLIPS)
    guessed = judged(monkeypatch, trained(Guesser()), windows=8)
    for kind in ("easy", "hard", "super_hard"):
        assert guessed[kind].low < 0.5 < guessed[kind].high
        assert 0.35 < guessed[kind].value < 0.65


def test_a_joint_space_judges_by_cosine_and_retrieves_in_all_four_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(monkeypatch, trained(None), task="clip", label="kind", k=(1,))
    assert found["easy"].value == found["hard"].value == 1.0
    assert "easy/yes_no" not in found
    assert found["video-audio/R@1"].value == found["audio-video/R@1"].value == 1.0
    assert {name for name in found if "nDCG" in name} == {
        f"{a}-{b}/nDCG@30" for a in ("video", "audio") for b in ("video", "audio")
    }
    assert found["video-video/nDCG@30"].chance == pytest.approx(found["audio-video/nDCG@30"].chance)
    with pytest.raises(UserError, match="'ave' compares no image or video with sound"):
        judged(monkeypatch, trained(None), task="ave")


def test_a_task_without_a_space_retrieves_within_a_modality_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(monkeypatch, trained(Oracle()), label="kind")
    assert {name for name in found if "@" in name} == {"video-video/nDCG@30", "audio-audio/nDCG@30"}


def test_questions_do_not_depend_on_when_they_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = trained(None)
    first, again = (judged(monkeypatch, subject, task="clip", seed=3) for _ in range(2))
    other = judged(monkeypatch, subject, task="clip", seed=4)
    assert first == again
    assert [first[kind].trivial for kind in ("easy", "hard")] != [other[kind].trivial for kind in ("easy", "hard")]


def test_questions_do_not_depend_on_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.evals.audio_visual.open_source", lambda data: Given([film(n) for n in range(5)]))
    judge = Comparer(trained(None), "clip")
    asked = AudioVisual(data=DATA, task="clip", batch=2, windows=1)
    alone, _, _ = asked._answers(judge)
    monkeypatch.setattr("mmssl.dist.world", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr("mmssl.dist.rank", lambda rank=rank: rank)
        monkeypatch.setattr("mmssl.dist.gather_objects", lambda value: [value])
        shares.append(asked._answers(judge)[0])
    together = {name: torch.cat([share[name] for share in shares]) for name in alone}
    order = together["sample"].argsort(stable=True)
    for name, values in alone.items():
        torch.testing.assert_close(together[name][order], values)


def test_still_pictures_have_easy_pairs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    stills = []
    for clip in range(6):
        picture = Image.fromarray(np.full((8, 8, 3), clip * 40, dtype=np.uint8))
        stills.append({"image": picture, "audio": Waveform(torch.full((RATE // 2,), clip * 40 / 255), RATE)})
    found = judged(monkeypatch, trained(None, visual="image", frames=10), samples=stills, task="clip")
    assert found["easy"].value == 1.0
    assert not {"hard", "super_hard"} & set(found)


def test_what_cannot_be_asked_about_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    short = {**film(0), "video": Frames(np.zeros((5, 8, 8, 3), np.uint8), FPS)}
    silent = {key: value for key, value in film(1).items() if key != "audio"}
    samples = [{"__key__": str(n), **made} for n, made in enumerate([short, silent, *map(film, range(4))])]
    with reporting() as report:
        found = judged(monkeypatch, trained(Oracle()), samples=samples)
    assert found["easy"].n == 4
    assert report.counts() == {"a clip shorter than a window": 1, "a sample without audio": 1}


@pytest.mark.parametrize("kind", ["easy", "hard", "super_hard"])
def test_windows_lie_on_the_grid_as_far_apart_as_said_and_true_and_false_alike(kind: Kind) -> None:
    sampler = WindowSampler({}, "video")
    rng = random.Random(0)
    drawn = [sampler._pair(kind, 1.0, 2.0, rng) for _ in range(8000)]
    pairs = np.array(drawn)
    assert np.allclose(pairs / GRID, (pairs / GRID).round())
    assert pairs.min() >= 0
    assert pairs.max() <= 2.0 + 1e-9
    distance = np.abs(pairs[:, 0] - pairs[:, 1])
    low, high = {"easy": (0, 0), "hard": (0.52, 2.0), "super_hard": (0.12, 0.48)}[kind]
    assert distance.min() == pytest.approx(low)
    assert distance.max() == pytest.approx(high)
    if kind != "easy":  # every ordered pair is equally likely, so where a sound lies does not tell whether it is true
        allowed = [(a, b) for a in range(51) for b in range(51) if low - 1e-9 <= abs(a - b) * GRID <= high + 1e-9]
        counts = Counter(map(tuple, (pairs / GRID).round().astype(int).tolist()))
        assert set(counts) <= set(allowed)
        assert abs(pairs[:, 0].mean() - pairs[:, 1].mean()) < 0.05
        ends = sum(counts[pair] for pair in allowed if 0 in pair or 50 in pair) / len(pairs)
        assert ends == pytest.approx(sum(0 in p or 50 in p for p in allowed) / len(allowed), abs=0.02)


def test_a_clip_without_room_has_no_hard_pair() -> None:
    sampler = WindowSampler({}, "video")
    assert sampler._pair("hard", 1.0, 0.4, random.Random(0)) is None
    assert sampler._pair("super_hard", 1.0, 0.1, random.Random(0)) is None
    assert sampler._pair("easy", 1.0, 0.0, random.Random(0)) == (0.0, 0.0)


def test_picture_and_true_sound_are_of_one_moment() -> None:
    subject = trained(Oracle())
    sampler = WindowSampler({name: encoder.preprocess for name, encoder in subject.encoders.items()}, "video")
    for questions in sampler.sample(film(3), ("easy", "hard", "super_hard"), 5, random.Random(1)).values():
        for question in questions:
            levels = question.visual[0, :, 0, 0].float() / 255
            torch.testing.assert_close(question.positive[:: RATE // FPS], levels)
            if question.negative is not None:
                assert (question.negative[:: RATE // FPS] - levels).abs().max() > 0.1


def test_ndcg_is_the_textbooks() -> None:
    scores = torch.tensor([[9.0, 3, 2, 1], [3, 9, 2, 1], [0, 0, 9, 0], [3, 2, 1, 9]])
    relevant = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 1], [0, 0, 1, 1]]).bool()
    value, chance = ndcg(scores, relevant, cut=2)
    log = np.log2
    # first: found second of one; second has nothing to find; third: ties count against, so second of two; fourth: none
    expected = [1 / log(3), (1 / log(3)) / (1 + 1 / log(3)), 0.0]
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.double))
    gain = 1 + 1 / log(3)
    by_chance = [gain / 3, gain * 2 / 3 / gain, gain / 3]
    assert chance == pytest.approx(np.mean(by_chance))


def test_a_linear_model_finds_what_is_trivial_and_only_that() -> None:
    draw = torch.Generator().manual_seed(0)
    clip = torch.arange(50).repeat_interleave(4)
    seen = torch.randn(200, 3, generator=draw)
    true = torch.stack([seen[:, 2] + 0.1 * torch.randn(200, generator=draw), torch.randn(200, generator=draw)], dim=1)
    false = torch.randn(200, 2, generator=draw)
    none = torch.zeros(200, 0)
    pair = [low_level.pair_features(seen, heard, none) for heard in (true, false)]
    assert low_level.prefers(*pair, clip).mean() > 0.75  # motion goes with loudness: their distance tells
    assert low_level.tells(*pair, clip).mean() > 0.6
    unrelated = [low_level.pair_features(seen, torch.randn(200, 2, generator=draw), none) for _ in range(2)]
    assert low_level.prefers(*unrelated, clip).mean() == pytest.approx(0.5, abs=0.12)


def test_cues_are_what_they_say() -> None:
    clip = torch.zeros(2, 3, 4, 8, 8, dtype=torch.uint8)
    clip[0, :, 2:] = 255  # a flash between the second frame and the third
    assert low_level.look(clip).tolist() == [[0.5, pytest.approx(0.5, abs=1e-3), pytest.approx(1 / 3)], [0.0, 0.0, 0.0]]
    sound = torch.full((2, 300), 0.01)
    sound[:, 100:200] = 0.5
    assert low_level.together(clip, sound)[0].item() == pytest.approx(1.0, abs=1e-4)
    assert low_level.together(clip[:, :, 0], sound).shape == (2, 0)
    assert low_level.loudness(sound)[0].tolist() == pytest.approx([np.log((0.25 + 2e-4) / 3), np.log(0.25)], abs=1e-4)


def test_it_reads_shards(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(stream, "PNG")
    from mmssl.modalities import audio

    with webdataset.TarWriter(str(tmp_path / "0.tar")) as tar:
        for n in range(4):
            wav = audio.encode(torch.rand(2000) - 0.5, sample_rate=8000)
            meta = json.dumps({"digit": str(n % 2)}).encode()
            tar.write({"__key__": str(n), "png": stream.getvalue(), "wav": wav, "json": meta})
    data = {"shards": str(tmp_path), "fields": {"label": "json.digit"}}
    subject = trained(SimpleNamespace(visual="image", log_odds=Guesser().log_odds), visual="image")  # type: ignore[arg-type]
    found = dict(AudioVisual(data=data, label="label", windows=2).run(subject))
    assert found["easy"].n == 4
    assert found["image-image/nDCG@30"].value == pytest.approx(1 / np.log2(4))  # all alike: ties count against
