"""Localisation, figure by figure: skewed maps, what random and central maps reach, other sounds, each clip once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from given import PLAIN, defaults, give, written
from test_localize import Knows, clip
from test_localize import trained as subject
from torch import Tensor
from torch.nn import functional as F

from mmssl import dist
from mmssl.errors import UserError
from mmssl.evals import localize
from mmssl.evals.localize import Localize, area_under, centre, fits, iou, measure, next_clip
from mmssl.evals.parts.report import reporting
from mmssl.evals.parts.sounding import Moment


def test_defaults() -> None:
    assert defaults(Localize) == {"task": "avol", "truth": "impacts", "moments": 1, "batch": 16, **PLAIN}
    assert (localize.SIZE, localize.DRAWS) == (224, 4)  # pixels as Senocak et al., CVPR 2018, show them
    assert localize.THRESHOLDS.tolist() == pytest.approx([n / 20 for n in range(21)])


def plain_iou(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum()) / max(1.0, float((a | b).sum()))


@pytest.mark.parametrize("skew", ["exponential", "one high", "many low"])
@pytest.mark.parametrize("sides", [(224, 224), (7, 14)])
def test_half_of_a_map_is_above_its_median_however_skewed(skew: str, sides: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    maps, truth = torch.rand(2, *sides, generator=draw), torch.rand(2, 56, 56, generator=draw) < 0.1
    maps = {"exponential": maps.pow(-4), "one high": maps, "many low": maps - 0.6}[skew]
    maps = maps.clamp(min=0) if skew == "many low" else maps
    if skew == "one high":
        maps[:, 3, 3] = 1e4
    found = fits(maps, truth)
    large = F.interpolate(maps[:, None], (224, 224), mode="bilinear", align_corners=False)[:, 0]
    assert {values.dtype for values in found.values()} == {torch.float32}, "so that one not asked can be nan"
    for row in range(2):
        where = truth[row].repeat_interleave(4, 0).repeat_interleave(4, 1)
        ordered = sorted(large[row].flatten().tolist())
        median = ordered[(224 * 224 - 1) // 2]
        assert found["iou"][row].item() == pytest.approx(plain_iou(large[row] > median, where))
        area = int(where.sum())
        level = ordered[-area]
        if ordered[-area - 1] < level:  # nothing ties at the edge
            assert found["same_area/iou"][row].item() == pytest.approx(plain_iou(large[row] >= level, where))
        peak = divmod(int(large[row].argmax()), 224)
        assert found["pointing"][row].item() == float(where[peak])


def test_iou_by_hand_and_of_nothing() -> None:
    a = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    b = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]).bool()
    assert iou(a, b).tolist() == [0.25, 0.0, 0.5]


def test_each_pictures_area_is_by_hand() -> None:
    # reached are the thresholds from 0 to its IoU, each 0.05 wide, and half of the next
    assert area_under(torch.tensor([0.0, 0.12, 0.5, 1.0])).tolist() == pytest.approx([0.025, 0.125, 0.525, 1.0])
    assert area_under(torch.tensor([[0.0], [1.0]])).tolist() == [[pytest.approx(0.025)], [1.0]]


def test_the_central_map_falls_off_alike_on_all_sides() -> None:
    found = centre(torch.zeros(3, 4, 6))
    assert found.shape == (3, 4, 6) and torch.equal(found[0], found[2])
    for y in range(4):
        for x in range(6):
            down, across = -1 + 2 * (y + 1) / 5, -1 + 2 * (x + 1) / 7
            assert found[0, y, x].item() == pytest.approx(-(down**2) - across**2)


def test_another_sound_is_the_next_clips_around_the_end() -> None:
    other, there = next_clip(torch.tensor([3, 3, 5, 3, 8]))
    assert other.tolist() == [2, 2, 3, 4, 0] and there.tolist() == [True] * 5
    assert next_clip(torch.tensor([4]))[1].tolist() == [False]


class Judge:
    """Stands in for a Comparer: a map is highest at the cell whose number is heard."""

    def __init__(self) -> None:
        self.frames: list[Any] = []

    def maps(self, seen: Tensor, heard: Tensor, frames: Any) -> Tensor:
        self.frames.append(frames)
        return F.one_hot(heard[:, 0].long(), 16).float().view(-1, 4, 4)


def moment(heard: int, where: int, frame: int = 0) -> Moment:
    truth = F.one_hot(torch.tensor(where), 16).bool().view(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)
    return Moment(torch.zeros(3, 2, 32, 32), torch.tensor([float(heard)]), truth, frame)


def test_maps_are_measured_beside_those_of_another_sound_the_centre_and_chance() -> None:
    judge: Any = Judge()
    moments = [moment(5, 5, 1), moment(5, 5), moment(3, 7)]
    clips = torch.tensor([4, 4, 9])
    found = measure(judge, moments, clips, seed=3)
    assert judge.frames == [[1, 0, 0]] * 2
    assert found["map/pointing"].tolist() == [1.0, 1.0, 0.0]
    assert found["other/pointing"].tolist() == [0.0, 0.0, 0.0], "clip 9 hears 5, clip 4 hears 3"
    truth, shape = torch.stack([m.truth for m in moments]), torch.zeros(3, 4, 4)
    heard = F.one_hot(torch.tensor([5, 5, 3]), 16).float().view(3, 4, 4)
    draw = torch.Generator().manual_seed(3)
    noise = [fits(torch.rand(3, 4, 4, generator=draw), truth) for _ in range(4)]
    for name in ("iou", "same_area/iou", "pointing"):
        assert torch.equal(found[f"map/{name}"], fits(heard, truth)[name])
        assert torch.equal(found[f"centre/{name}"], fits(centre(shape), truth)[name])
        assert torch.equal(found[f"random/{name}"], torch.stack([n[name] for n in noise], dim=1))
    swapped = measure(judge, [moment(7, 5), moment(3, 7)], torch.tensor([1, 2]), seed=0)
    assert swapped["other/pointing"].tolist() == [0.0, 1.0]
    alone = measure(judge, moments[:2], clips[:2], seed=0)
    assert alone["other/pointing"].isnan().all()


def test_figures_are_by_hand_each_clip_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "sample": torch.tensor([2, 2, 7]),
        "key": ["bell", "bell", "drum"],
        "map/iou": torch.tensor([0.5, 0.4, 0.9]),
        "centre/iou": torch.tensor([0.1, 0.6, 0.7]),
        "random/iou": torch.tensor([[0.5, 0.1], [0.6, 0.7], [0.0, 0.2]]),
        "map/same_area/iou": torch.tensor([1.0, 0.2, 0.3]),
        "centre/same_area/iou": torch.tensor([0.2, 0.2, 0.8]),
        "random/same_area/iou": torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
        "map/pointing": torch.tensor([1.0, 0.0, 1.0]),
        "centre/pointing": torch.tensor([0.0, 0.0, 1.0]),
        "random/pointing": torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]),
        "other/pointing": torch.tensor([1.0, 0.0, torch.nan]),
    }
    give(monkeypatch, "mmssl.evals.localize", [])
    monkeypatch.setattr(Localize, "_measured", lambda self, judge: iter([values]))
    found = written(dict(Localize(data={}).run(subject("image", Knows("image")))))
    by_hand = {
        "cIoU@0.5": ((0.5 + 1) / 2, (0.5 + 1) / 2, ((0.5 + 1) / 2 + 0) / 2),
        "AUC": (
            ((0.525 + 0.425) / 2 + 0.925) / 2,
            ((0.125 + 0.625) / 2 + 0.725) / 2,
            (((0.525 + 0.125) / 2 + (0.625 + 0.725) / 2) / 2 + (0.025 + 0.225) / 2) / 2,
        ),
        "same_area/cIoU@0.5": (0.25, 0.5, 0.125),
        "same_area/AUC": (((1 + 0.225) / 2 + 0.325) / 2, (0.225 + 0.825) / 2, None),
        "pointing": (0.75, 0.5, (0.25 + 0.5) / 2),
        "other_sound/pointing": (0.5, 0.5, (0.25 + 0.5) / 2),
    }
    assert list(found) == list(by_hand)
    for name, (value, trivial, chance) in by_hand.items():
        assert found[name].value == pytest.approx(value, abs=1e-6), name
        assert found[name].trivial == pytest.approx(trivial, abs=1e-6), name
        if chance is not None:
            assert found[name].chance == pytest.approx(chance, abs=1e-6), name
    assert found["pointing"].n == 2 and found["other_sound/pointing"].n == 1
    parts = {
        "cIoU@0.5": {"bell": 0.5, "drum": 1},
        "AUC": {"bell": (0.525 + 0.425) / 2, "drum": 0.925},
        "same_area/cIoU@0.5": {"bell": 0.5, "drum": 0},
        "same_area/AUC": {"bell": (1 + 0.225) / 2, "drum": 0.325},
        "pointing": {"bell": 0.5, "drum": 1},
        "other_sound/pointing": {"bell": 0.5},
    }
    for name, expected in parts.items():
        assert found[name].parts == pytest.approx(expected, abs=1e-6), name


def asked(monkeypatch: pytest.MonkeyPatch, samples: list[Any], **options: Any) -> list[Any]:
    told: list[Any] = []

    def note(judge: Any, moments: list[Moment], clips: Tensor, *, seed: int) -> Any:
        told.append((len(moments), clips.tolist(), seed))
        return {"map": clips}

    monkeypatch.setattr(localize, "measure", note)
    give(monkeypatch, "mmssl.evals.localize", samples)
    made = Localize(data={}, **options)
    for row in made._measured(localize.Comparer(subject("video", Knows("video")), "avol")):
        assert torch.equal(row["sample"], row["map"]) and row["key"] == [str(n) for n in row["sample"].tolist()]
    return told


def test_moments_of_every_clip_are_measured_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [clip(n) for n in range(5)]
    del samples[1]["audio"]
    samples[2]["meta"] = {"fps": 10, "impacts": samples[2]["meta"]["impacts"][:1]}
    with reporting() as report:
        told = asked(monkeypatch, samples, moments=2, batch=2)
    assert [row[:2] for row in told] == [(2, [0, 0]), (3, [2, 3, 3]), (2, [4, 4])]
    assert len({row[2] for row in told}) == 3, "each chunk has random maps of its own"
    assert report.counts() == {"a sample without audio": 1}
    with reporting():
        assert asked(monkeypatch, [samples[1] | {"audio": None}]) == []
    monkeypatch.setattr(dist, "world", lambda: 2)
    monkeypatch.setattr(dist, "rank", lambda: 1)
    with reporting():
        shared = asked(monkeypatch, samples, moments=2, batch=2)
    assert shared == told[1:2]


def test_options_reach_what_finds_the_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Finds(localize.Sounding):
        def __init__(self, preprocess: Any, visual: str, **options: Any) -> None:
            told.append((list(preprocess), visual, options))
            super().__init__(preprocess, visual, **options)

    monkeypatch.setattr(localize, "Sounding", Finds)
    asked(monkeypatch, [], truth="boxes", moments=3)
    give(monkeypatch, "mmssl.evals.localize", [{"video": 0, "audio": 0, "boxes": 0}])
    Localize(data={}, truth="boxes").check(subject("video", Knows("video")))
    assert told == [
        (["video", "audio"], "video", {"truth": "boxes", "count": 3}),
        (["video", "audio"], "video", {"truth": "boxes"}),
    ]
    with pytest.raises(UserError, match="has 'masks'"):
        Localize(data={}, truth="masks").check(subject("video", Knows("video")))
    lacking: Any = torch.nn.Module()
    lacking.visual = "video"
    with pytest.raises(UserError, match="neither a similarity_map nor a joint space"):
        Localize(data={}, truth="boxes").check(subject("video", lacking))
