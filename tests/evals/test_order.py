"""Tasks asked again: the pretext on held-out clips, order, shortcuts, and the images of it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl import dist
from mmssl.data.shards import Source
from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.evals.order import Order, nearest_in_time
from mmssl.evals.parts.pretext import answer, gathered, per_group, show
from mmssl.evals.shortcut import Shortcut, explained
from mmssl.methods.avts import AVTS
from mmssl.methods.odd_one_out import OddOneOut, OddSequence
from mmssl.methods.opn import OPN, ShuffledFrames
from mmssl.methods.shuffle_and_learn import OrderVerification, ShuffleAndLearn
from mmssl.modalities import video
from mmssl.plots.order import plot
from mmssl.transforms.base import step_name
from mmssl.transforms.ordered import OrderedFrames, Question
from mmssl.types import Batch, Encoder, Loss, Objective, Pretext, Trained
from mmssl.views.ordered import ordered
from mmssl.views.synchronised import shifted

VIT = {"name": "vit", "image_size": 32, "patch_size": 16, "width": 16, "depth": 1, "heads": 2}
VIEW = {"side": 32, "crop": 28, "jitter": 1, "fps": 12.5}
CLIPS = 10


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Clips of a square that crosses a shaded floor, with sound; the last one stands still."""
    import webdataset

    folder = tmp_path_factory.mktemp("clips")
    draw = np.random.default_rng(0)
    with webdataset.TarWriter(str(folder / "clips.tar")) as writer:
        for index in range(CLIPS):
            floor = np.linspace(0, 80, 32).astype(np.uint8)[:, None, None].repeat(32, 1).repeat(3, 2)
            frames = np.tile(floor, (25, 1, 1, 1))
            row, color = draw.integers(2, 22), draw.integers(120, 255, 3)
            for time in range(25):
                frames[time, row : row + 7, time : time + 7] = color
            if index == CLIPS - 1:
                frames[:] = floor
            sound = 0.1 * draw.standard_normal(32000).astype(np.float32)
            data = video.encode(frames, fps=12.5, audio=sound, sample_rate=16000)
            writer.write({"__key__": f"{index:03d}", "mp4": data})
    return {"shards": str(folder)}


def asked(task: type[OrderedFrames], options: Mapping[str, Any], **steps: None) -> dict[str, Any]:
    return {"video": {step_name(task): {**VIEW, **options}, **steps}}


def run(
    objective: type[Objective],
    task: type[OrderedFrames] = ShuffledFrames,
    *,
    options: Mapping[str, Any] | None = None,
    **parts: Any,
) -> Trained:
    torch.manual_seed(0)
    encoders: dict[str, Encoder] = {"video": create_encoder("frames", image=VIT, frames=4)}
    made = objective(encoders, **parts)
    return Trained(encoders, {"task": Pretext(made, ordered(task()), asked(task, options or {}))})


def opn(**options: Any) -> Trained:
    return run(OPN, widths=(8, 8), options=options)


def ask(trained: Trained, task: str, source: Source, **options: Any) -> dict[str, torch.Tensor]:
    """Returns what the task answers about every sample: name -> (N,), in the order of the source."""
    shown = show(trained, task, source, **options)
    return gathered([{"sample": which["sample"], **answer(trained, task, batch).answers} for which, batch in shown])


class Knowing(OPN):
    """Answers rightly, for it reads the target."""

    def forward(self, encoders: Mapping[str, Encoder], batch: Batch) -> Loss:
        assert batch.target is not None
        right = torch.ones(len(batch.target))
        return Loss(right.sum(), answers={"correct": right, "said": batch.target.float()})


def test_answers_stand_in_the_order_of_the_source_without_what_cannot_be_shown(clips: dict[str, Any]) -> None:
    answers = ask(opn(), "task", Source(**clips), batch=4, rounds=2)
    assert answers["sample"].tolist() == sorted(2 * list(range(CLIPS - 1)))
    assert set(answers["correct"].tolist()) <= {0.0, 1.0}


def test_asking_depends_on_the_seed_alone_and_leaves_the_generators_as_they_were(clips: dict[str, Any]) -> None:
    trained, source = run(Knowing, widths=(8, 8)), Source(**clips)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    first = ask(trained, "task", source, rounds=2)
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])
    random.seed(7)
    torch.testing.assert_close(ask(trained, "task", source, rounds=2), first)
    assert not torch.equal(ask(trained, "task", source, rounds=2, seed=1)["said"], first["said"])


def test_several_processes_share_what_one_would_ask(clips: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trained, source = opn(), Source(**clips)
    whole = ask(trained, "task", source, batch=2)
    parts = []
    monkeypatch.setattr(dist, "world", lambda: 1 if dist._ALONE.get() else 2)
    monkeypatch.setattr(dist, "gather_objects", lambda value: [value])
    for rank in (0, 1):
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        parts.append(ask(trained, "task", source, batch=2))
    joined = {key: torch.cat([part[key] for part in parts]) for key in whole}
    order = joined["sample"].argsort(stable=True)
    torch.testing.assert_close({key: value[order] for key, value in joined.items()}, whole)


def test_asking_changes_the_options_of_the_view_and_no_mode(clips: dict[str, Any]) -> None:
    trained = opn()
    objective = trained.task("task").objective
    assert objective.training
    with pytest.raises(UserError, match="colour"):
        ask(trained, "task", Source(**clips), colour=True)
    ask(trained, "task", Source(**clips), video={"split_channels": None})
    assert objective.training and trained.encoders["video"].training
    with pytest.raises(UserError, match="no sample that the task can be asked about"):
        ask(trained, "task", Source(**clips), video={"shuffled_frames": {"gap": (3.0, 3.0)}})


def test_one_that_knows_is_right_and_the_trivial_answers_stand_beside(clips: dict[str, Any]) -> None:
    scores = dict(Order(data=clips, task="task", rounds=2).run(run(Knowing, widths=(8, 8))))
    assert scores["accuracy"].value == 1.0 and scores["accuracy"].n == CLIPS - 1
    assert scores["accuracy"].chance == pytest.approx(1 / 12)
    assert scores["accuracy"].trivial is not None and scores["accuracy"].trivial < 0.6
    assert scores["nearest"].chance == pytest.approx(0.5) and 0 <= scores["nearest"].value <= 1
    assert scores["ambiguous/accuracy"].value == 1.0
    assert scores["ambiguous/accuracy"].n <= CLIPS - 1
    assert 0 <= scores["chain/features"].value <= 1


def test_clips_whose_frames_lie_apart_as_time_does_are_not_ambiguous(clips: dict[str, Any]) -> None:
    trained = opn()
    down = asked(ShuffledFrames, {"jitter": 0, "crop": 32, "gap": (0.1, 0.1)}, split_channels=None, level=None)
    trained.tasks["task"].options.update(down)
    scores = dict(Order(data=clips, task="task").run(trained))
    assert scores["chain/pixels"].value > 0.9  # the square overlaps with where it was a moment ago
    assert scores["nearest"].trivial is not None and scores["nearest"].trivial > 0.9


@pytest.mark.parametrize(
    ("objective", "view", "parts", "options", "chance"),
    [
        (ShuffleAndLearn, OrderVerification, {"widths": (8,)}, {"span": (0.3, 0.5), "outside": (0.2, 0.3)}, 0.75),
        (
            OddOneOut,
            OddSequence,
            {"widths": (8,), "frames": 3},
            {"sequences": 3, "frames": 3, "window": (0.5, 0.8)},
            1 / 3,
        ),
    ],
)
def test_every_task_about_order_is_judged_and_drawn(
    clips: dict[str, Any], objective: Any, view: Any, parts: dict[str, Any], options: dict[str, Any], chance: float
) -> None:
    trained = run(objective, view, options=options, **parts)
    scores = dict(Order(data=clips, task="task", rounds=1).run(trained))
    assert scores["accuracy"].chance == pytest.approx(chance)
    ((name, drawn),) = plot(trained, data=clips, task="task", count=1)
    assert name == "order-00" and isinstance(drawn, Image.Image)


def test_right_frames_are_green_and_wrong_ones_red(clips: dict[str, Any]) -> None:
    for objective in (Knowing, OPN):
        trained = run(objective, widths=(8, 8))
        drawn = dict(plot(trained, data=clips, task="task", count=8))
        assert len(drawn) == 8
        reds = [(np.asarray(p) == (230, 60, 50)).all(axis=2).sum() for p in drawn.values()]
        greens = [(np.asarray(p) == (60, 170, 75)).all(axis=2).sum() for p in drawn.values()]
        assert (max(reds) == 0 and min(greens) > 1000) if objective is Knowing else max(reds) > 1000


def test_other_tasks_have_no_order(clips: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is not about the order of frames"):
        list(Order(data=clips, task="task").run(synchronised()))
    with pytest.raises(UserError, match="is not about the order of frames"):
        list(plot(synchronised(), data=clips, task="task"))


def synchronised() -> Trained:
    torch.manual_seed(0)
    backbone = {**VIT, "in_channels": 1, "image_size": 16, "patch_size": 8}
    encoders: dict[str, Encoder] = {
        "video": create_encoder("frames", image=VIT, frames=4, fps=8.0),
        "audio": create_encoder("spectrogram", backbone=backbone, seconds=0.48, mels=16),
    }
    return Trained(encoders, {"task": Pretext(AVTS(encoders, embed_dim=8), shifted, {"easy_until": 0.0})})


def test_shortcuts_are_tried_with_each_guard_let_down(clips: dict[str, Any]) -> None:
    scores = dict(Shortcut(data=clips, task="task", rounds=1).run(run(Knowing, widths=(8, 8))))
    settings = {name.partition("/")[0] for name in scores}
    assert settings == {"on", "without_channel_splitting", "without_level", "without_jitter", "without_random_times"}
    for name in settings:
        assert scores[f"{name}/accuracy"].value == 1.0
        assert scores[f"{name}/accuracy"].chance == pytest.approx(1 / 12)
        trivial = scores[f"{name}/accuracy"].trivial
        assert trivial is not None
        expected = max(0.0, trivial - 1 / 12) / (1 - 1 / 12)
        assert scores[f"{name}/explained"].value == pytest.approx(expected, abs=1e-6)


@dataclass(kw_only=True)
class Colours(ShuffledFrames):
    """A task that mean colour answers: how bright it is."""

    guards: ClassVar = {}

    def ask(self) -> Question:
        self.number = random.randrange(12)
        return replace(super().ask(), target=self.number // 6)

    def take(self, clip: Any, offsets: Any) -> Any:
        return np.full_like(super().take(clip, offsets), 20 * self.number)


def test_a_shortcut_that_explains_everything_is_found(clips: dict[str, Any]) -> None:
    trained = run(Knowing, Colours, widths=(8, 8))
    trained.tasks["task"].options["video"] |= {"split_channels": None, "level": None}
    scores = dict(Shortcut(data=clips, task="task", rounds=4).run(trained))
    assert scores["on/explained"].value > 0.85


def test_shortcuts_of_tasks_that_match_pairs(clips: dict[str, Any]) -> None:
    scores = dict(Shortcut(data=clips, task="task", rounds=2).run(synchronised()))
    for guards in ("on", "without_time_grid"):
        assert scores[f"{guards}/accuracy"].chance == 0.5
        trivial = scores[f"{guards}/accuracy"].trivial
        assert trivial is not None and 0.1 < trivial < 0.9  # nothing in these clips tells
        assert 0 <= scores[f"{guards}/explained"].value <= 1


def test_the_share_explained_is_that_of_what_lies_above_chance() -> None:
    correct, linear = torch.ones(200), (torch.arange(200) % 4 != 0).float()
    score = explained(correct, linear, chance=0.5)
    assert score.value == pytest.approx(0.5) and score.low < 0.5 < score.high and score.n == 200
    assert explained(linear, correct, chance=0.5).value == 1.0
    assert explained(correct, 1 - linear, chance=0.5).value == 0.0


def test_the_nearest_frame_is_a_neighbour_or_not() -> None:
    order = torch.tensor([[[2, 0, 3, 1]]])
    in_time = (order[..., None] - order[..., None, :]).abs().float()
    found, chance = nearest_in_time(in_time, order)
    assert found.tolist() == [1.0] and chance.tolist() == [0.5]
    found, _ = nearest_in_time(4 - in_time, order)
    assert found.tolist() == [0.0]


def test_rows_are_averaged_by_group() -> None:
    values, groups = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([7, 7, 3, 9])
    assert per_group(values, groups).tolist() == [1.0, 0.5, 1.0]
