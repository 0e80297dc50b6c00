"""Colour tracking: what is shown, what is asked, and what is refused."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmssl.data.collate import collate
from mmssl.encoders import create_encoder
from mmssl.errors import DamagedError, UserError
from mmssl.methods import color_tracking
from mmssl.methods.color_tracking import CellColors, ColorTracking, method
from mmssl.modalities import video
from mmssl.modalities.video import Frames
from mmssl.nn.head import Cells, Dilated
from mmssl.numerics.color import lab
from mmssl.transforms.frames import Colorful, Window
from mmssl.transforms.image import Crop, Flip
from mmssl.transforms.video import VideoPreprocess
from mmssl.types import Batch, Features, View
from mmssl.views.template import Views

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import epoch
from settings import batch, build
from tables import Table, defaults, films, present, same

CONVNET = {"name": "convnet", "image_size": 16, "widths": [8], "depths": [1], "stem_stride": 4}


def clip(frames: int = 30, *, fps: float = 12.0) -> Frames:
    """A bright square that moves over a dark ground, both coloured."""
    pictures = np.full((frames, 32, 32, 3), (20, 40, 90), dtype=np.uint8)
    for t in range(frames):
        pictures[t, 8:20, t % 20 : t % 20 + 12] = (240, 180, 40)
    return Frames(pictures, fps)


STILL = {"crop": {"scale": (1.0, 1.0)}, "flip": None}


def view(*, gray: bool = True, **video: Any) -> View:
    encoder = create_encoder("frames", image=CONVNET, frames=8)
    return method.view({"video": encoder.preprocess}, video=video, cell_colors={"cell": 4, "gray": gray})


def shown(*clips: Any, gray: bool = True, **video: Any) -> Batch:
    seen = view(gray=gray, **video)
    return seen.on_device(collate([seen({"video": one}) for one in clips], seen))


def test_the_network_sees_grey_frames_and_the_target_is_the_colour_of_cells() -> None:
    made = shown(clip(), clip(), **STILL)
    (seen,) = made.views["video"]
    assert seen.shape == (2, 3, 4, 16, 16) and seen.dtype == torch.uint8
    assert torch.equal(seen[:, 0], seen[:, 1]) and torch.equal(seen[:, 0], seen[:, 2])
    assert made.extra["colors"].shape == (2, 4, 2, 4, 4)
    torch.manual_seed(0)
    (raw,) = shown(clip(), **STILL, gray=False).views["video"]
    assert not torch.equal(raw[:, 0], raw[:, 2]), "the guard is down"
    colored = view(**STILL, gray=False)
    two = colored.on_device(Batch({"video": [raw]}))
    expected = lab(raw)[0, 1:, 2, 4:8, 8:12].mean(dim=(1, 2))  # the third frame's cell (1, 2)
    torch.testing.assert_close(two.extra["colors"][0, 2, :, 1, 2], expected)


def test_a_clip_without_video_is_marked_and_does_not_count() -> None:
    seen = view()
    made = seen.on_device(collate([seen({"video": clip()}), seen({})], seen))
    assert made.present("video").tolist() == [True, False]
    assert made.extra["colors"].shape[:2] == (2, 4)


@pytest.mark.parametrize("coded", [False, True], ids=["raw", "H.264"])
def test_clips_that_are_short_or_grey_are_damaged(coded: bool) -> None:
    def handle(frames: Frames) -> Any:
        return video.Video(video.encode(frames.pictures, fps=frames.fps)) if coded else frames

    for good in (clip(8), clip(7)):
        view()({"video": handle(good)})
    with pytest.raises(DamagedError, match="shorter than the window"):
        view()({"video": handle(clip(5))})
    luma = clip().pictures.mean(axis=3, keepdims=True).astype(np.uint8)
    with pytest.raises(DamagedError, match="without colour"):
        view()({"video": handle(Frames(np.repeat(luma, 3, axis=3), 12.0))})


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="do not divide into cells of 5"):
        method.view({"video": VideoPreprocess(size=16)}, cell_colors={"cell": 5})


def test_the_loss_is_the_mean_over_the_cells_that_references_can_answer() -> None:
    model = build("color_tracking")
    objective, full = model.objectives["color_tracking"], batch("color_tracking", missing=False)
    colors = full.extra["colors"]
    labels = torch.cdist(colors.movedim(2, -1).flatten(2, 3), objective.centers).argmin(-1)  # (B, T, N)
    cells = objective.head(model.encoders["video"](full.views["video"][0])).unflatten(1, (4, 4))
    objective.scale.log.data.fill_(math.log(100))  # far from ties
    terms, right = [], []
    for b in range(8):
        attention = (100 * cells[b, 3] @ cells[b, :3].flatten(0, 1).T).softmax(dim=1)
        mixed = attention @ F.one_hot(labels[b, :3].flatten(), 4).float()
        known = labels[b, 3, :, None] == labels[b, :3].flatten()
        terms += [-mixed[i, labels[b, 3, i]].log() for i in range(4) if known[i].any()]
        right.append((mixed.argmax(1) == labels[b, 3]).float().mean())
    loss = objective(model.encoders, full)
    torch.testing.assert_close(loss.total, torch.stack(terms).mean())
    torch.testing.assert_close(loss.answers["correct"], torch.stack(right))
    still = (labels[:, 2] == labels[:, 3]).float().mean(1)
    torch.testing.assert_close(loss.answers["still"], still)
    assert 0 < loss.logs["majority"] < 1


def test_clusters_are_learnt_from_the_stream_of_whole_samples_and_saved() -> None:
    encoders = {"video": create_encoder("frames", image=CONVNET)}
    objective = ColorTracking(encoders, clusters=2, width=8, learn_from=60)
    made = shown(clip(), clip(), crop={"scale": (1.0, 1.0)})
    made.extra["colors"][1] = 99.0
    made.extra["video_present"] = torch.tensor([True, False])
    taken = []

    def stream() -> Any:
        while True:
            taken.append(1)
            yield made

    objective.before_epoch({}, epoch(batches=stream))
    assert len(taken) < 20
    a, b = lab(torch.tensor([[20, 40, 90], [240, 180, 40]], dtype=torch.uint8))[:, 1:]
    assert torch.cdist(objective.centers, torch.stack([b, a])).diagonal().max() < 25 or (
        torch.cdist(objective.centers, torch.stack([a, b])).diagonal().max() < 25
    )
    assert "centers" in objective.state_dict()


def test_an_encoder_that_merges_frames_is_refused() -> None:
    class Merged(torch.nn.Module):
        dim = 8

        def forward(self, x: torch.Tensor) -> Features:
            return Features(torch.zeros(len(x), 8), torch.zeros(len(x), 8, 8), grid=(2, 2, 2))

    encoders: Any = {"video": Merged()}
    with pytest.raises(UserError, match="choose one that keeps each frame"):
        ColorTracking(encoders, width=8)(encoders, batch("color_tracking"))


@pytest.mark.parametrize(
    ("head", "coordinates", "copied", "tolerance"),
    [("cells", True, 1.0, 0.0), ("cells", False, 0.25, 42.0), ("dilated", True, 0.0, 0.0)],
)
def test_every_option_and_an_absent_sample_by_a_loop_over_cells(
    head: Any, coordinates: bool, copied: float, tolerance: float
) -> None:
    """Four frames of 2 x 3 cells, whose colours are known at twice that resolution."""
    encoders: dict[str, Any] = {"video": Table("video", 5, grid=(4, 2, 3))}
    options: dict[str, Any] = {"clusters": 3, "embed_dim": 4, "width": 6, "temperature": 0.4, "still": copied}
    options["tolerance"] = tolerance  # the centres lie 41.2, 42.4 and 72.8 from each other
    made = ColorTracking(encoders, head=head, coordinates=coordinates, **options)
    kinds = {"cells": Cells, "dilated": Dilated}
    assert isinstance(made.head, kinds[head])
    expected_config = {"out": 4, "coordinates": coordinates} if head == "cells" else {"out": 4, "width": 6}
    assert expected_config.items() <= made.head.config().items()
    assert made.centers.tolist() == [[0.0, 0.0]] * 3 and "centers" in made.state_dict()
    made.centers.copy_(torch.tensor([[-40.0, 10.0], [0.0, 0.0], [30.0, 30.0]]))
    assert made.weights.tolist() == [1.0] * 3 and "weights" in made.state_dict()
    made.weights.copy_(torch.tensor([0.5, 1.0, 3.0]))
    drawn = torch.randint(3, (4, 4, 2, 3))
    drawn[0, :3] = drawn[0, :3].clamp(max=1)
    drawn[0, 3, 0] = 2  # a colour that no earlier cell has
    colors = made.centers[drawn].movedim(-1, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    colors[..., ::2] += 5.0
    colors[..., 1::2] -= 5.0  # even over each cell
    have = present(1, 1, 0, 1)
    shown = Batch({"video": [films(*[[i] * 4 for i in range(4)])]}, extra={"colors": colors, "video_present": have})
    cells = made.head(encoders["video"](shown.views["video"][0])).view(4, 4, 6, 4)  # (B, T, N, D)
    labels = drawn.flatten(2)
    terms: list[torch.Tensor] = []
    counts: list[float] = []
    right, majority, still, changed = [], [], [], []
    for b in have.nonzero()[:, 0].tolist():
        earlier, known = cells[b, :3].reshape(18, 4), labels[b, :3].flatten()
        said, moved = [], []
        for n in range(6):
            attention = (made.scale() * earlier @ cells[b, 3, n]).softmax(dim=0)
            chances = torch.stack([attention[known == k].sum() for k in range(3)])
            said.append(int(chances.argmax()))
            if (known == labels[b, 3, n]).any():
                old, new = int(labels[b, 2, n]), int(labels[b, 3, n])
                changes = old != new and math.dist(made.centers[old].tolist(), made.centers[new].tolist()) > tolerance
                counts.append([0.5, 1.0, 3.0][new] * (1.0 if changes else copied))
                terms.append(-chances[new].log() * counts[-1])
                moved += [said[-1] == new] if changes else []
        truth = labels[b, 3]
        right.append((torch.tensor(said) == truth).float().mean())
        majority.append((known.bincount(minlength=3).argmax() == truth).float().mean())
        still.append((labels[b, 2] == truth).float().mean())
        changed.append(torch.tensor(moved).float().mean())
    assert len(terms) < 18, "some have no answer"
    found = made(encoders, shown)
    same(found.total, torch.stack(terms).sum() / sum(counts), [*encoders.values(), made])
    margin = [a - b for a, b in zip(right, still, strict=True)]
    kinds = {"correct": right, "majority": majority, "still": still, "margin": margin, "changed": changed}
    assert found.answers.keys() == kinds.keys()
    for name, values in kinds.items():
        torch.testing.assert_close(found.answers[name][have], torch.stack(values), equal_nan=True)
        assert found.answers[name][2].isnan()
        torch.testing.assert_close(found.logs[name], torch.stack(values).nanmean())
    torch.testing.assert_close(found.logs["temperature"], torch.tensor(0.4))
    assert not found.logs["temperature"].requires_grad and not found.embeddings["video"].requires_grad
    torch.testing.assert_close(found.embeddings["video"], cells[:, 3, 3].detach())
    assert made.spaces() == {"video": made.head} and made.uses == ("video",)
    made.scale.log.data.fill_(9.0)
    made.after_step(encoders, 0.0)
    assert made.scale().item() == pytest.approx(100.0)


def learnt(monkeypatch: pytest.MonkeyPatch, *, learn_from: int, clusters: int = 2) -> tuple[torch.Tensor, int]:
    """What the clusters are sought in, and how many batches it took: batch i has colours (i, cell) and absent ones."""
    sought: list[torch.Tensor] = []

    def kmeans(x: torch.Tensor, number: int) -> torch.Tensor:
        sought.append(x)
        return torch.arange(2.0 * number).view(number, 2)

    monkeypatch.setattr(color_tracking, "kmeans", kmeans)
    made = ColorTracking({"video": Table("video", grid=(2, 2, 2))}, clusters=clusters, width=4, learn_from=learn_from)
    taken = []

    def stream() -> Any:
        for number in range(2000):
            taken.append(number)
            a, b = torch.full((2, 3, 2, 4), float(number)), torch.arange(48.0).view(2, 3, 2, 4)
            colors = torch.stack([a, b], dim=2)  # (B, T, 2, h, w)
            yield Batch({"video": [films([0], [1])]}, extra={"colors": colors, "video_present": present(0, 1)})

    made.before_epoch({}, epoch(batches=stream))
    assert made.centers.tolist() == [[2.0 * k, 2.0 * k + 1] for k in range(clusters)]
    return sought[0], len(taken)


def test_where_copying_answers_all_there_is_nothing_to_ask() -> None:
    """With `still` 0 such a batch has a loss of 0 that carries a gradient, and no accuracy of changed cells."""
    encoders: dict[str, Any] = {"video": Table("video", 5, grid=(4, 2, 3))}
    made = ColorTracking(encoders, clusters=2, head="cells", embed_dim=4, still=0.0)
    made.centers.copy_(torch.tensor([[-40.0, 10.0], [30.0, 30.0]]))
    colors = made.centers[torch.randint(2, (2, 1, 2, 3))].expand(2, 4, 2, 3, 2).movedim(-1, 2)
    found = made(encoders, Batch({"video": [films(*[[i] * 4 for i in range(2)])]}, extra={"colors": colors}))
    assert found.total.item() == 0.0 and found.total.requires_grad
    assert found.answers["changed"].isnan().all() and found.answers["still"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("uniform", [1.0, 0.5, 0.1])
def test_rare_clusters_count_more(uniform: float) -> None:
    """lambda of Zhang et al., ECCV 2016: 1 / ((1 - lambda) share + lambda / K), of mean 1 over what is seen."""
    made = ColorTracking({"video": Table("video", grid=(2, 2, 2))}, clusters=2, width=4, uniform=uniform)
    colors = torch.zeros(4, 1, 2, 2, 2)
    colors[0] = 50.0  # a quarter
    shown = Batch({"video": [films([0], [1], [2], [3])]}, extra={"colors": colors})
    made.before_epoch({}, epoch(batches=lambda: iter([shown] * 4)))
    shares = np.array([0.25, 0.75])
    raw = 1 / ((1 - uniform) * shares + uniform / 2)
    expected = raw / (raw * shares).sum()
    rare = int(made.centers[:, 0].argmax())
    assert made.weights[[rare, 1 - rare]].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_clusters_are_sought_in_so_many_cells_a_few_of_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    found, taken = learnt(monkeypatch, learn_from=20, clusters=3)
    assert found[:, 0].tolist() == [*np.repeat(range(6), 3), 6, 6] and taken == 7
    assert found[:, 1].min() >= 24, "of the sample that is there"
    assert len(set(found[:, 1].tolist())) > 8 and found[:, 1].max() > 40, "any cell"
    monkeypatch.setattr(color_tracking, "LEARN_BATCHES", 2)
    assert learnt(monkeypatch, learn_from=20)[1] == 2


def test_several_processes_seek_them_in_what_all_have_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(color_tracking.dist, "world", lambda: 2)
    monkeypatch.setattr(color_tracking.dist, "gather", lambda x: torch.cat([x, x + 100]))
    found, _ = learnt(monkeypatch, learn_from=21)
    own = [*np.repeat(range(5), 2), 5]  # 11 of its own
    assert found[:, 0].tolist() == [*own, *(number + 100 for number in own)]


def test_defaults() -> None:
    """Vondrick et al., ECCV 2018: three references at 6 frames a second, 16 clusters, 64 numbers, 3D convolutions of
    256. Temperature, crops, flips and the bound on colour are this project's own.
    """
    assert defaults(ColorTracking) == {
        "clusters": 16, "head": "dilated", "coordinates": True, "embed_dim": 64, "width": 256, "temperature": 0.1,
        "still": 1.0, "tolerance": 0.0, "uniform": 1.0, "learn_from": 50_000,
    }  # fmt: skip
    steps = [Window(frames=4, fps=6.0), Crop(scale=(0.5, 1.0), ratio=(1.0, 1.0)), Flip(p=0.5), Colorful(chroma=12.0)]
    guards = {"grey": {"cell_colors": {"gray": False}}}
    assert method.view == Views(1, video=steps, after=[CellColors(cell=8, gray=True)], guards=guards)
    assert method.objective is ColorTracking and color_tracking.LEARN_BATCHES == 1000


def of_size(size: int = 16, *, cell: int = 4, gray: bool = True, **video: Any) -> View:
    given = STILL | {"window": {"fps": 4.0}} | video
    preprocess = {"video": VideoPreprocess(size=size, frames=9, seconds=5.0)}
    return method.view(preprocess, video=given, cell_colors={"cell": cell, "gray": gray})


def placed(frames: int, *, side: int = 16) -> Frames:
    """At 4 frames a second; red tells the column, green the row, and blue the frame."""
    y, x = np.mgrid[:side, :side] * (256 // side)
    pictures = [np.stack([x, y, np.full_like(x, 10 * t)], axis=2) for t in range(frames)]
    return Frames(np.stack(pictures).astype(np.uint8), 4.0)


def test_the_frames_are_neighbours_at_the_rate_from_anywhere_in_the_clip() -> None:
    view, starts = of_size(window={"frames": 3, "fps": 4.0}), set()
    for _ in range(60):
        (seen,) = view({"video": placed(8)})["video"]
        moments = (seen[2, :, 0, 0] // 10).tolist()
        assert moments == [moments[0], moments[0] + 1, moments[0] + 2]
        starts.add(moments[0])
    assert starts == {0, 1, 2, 3, 4, 5}
    (seen,) = of_size(window={"frames": 3, "fps": 2.0})({"video": placed(6)})["video"]
    assert (seen[2, :, 0, 0] // 10).tolist() == [1, 3, 5], "the middles of three halves of a second"


def test_one_square_is_cut_from_all_frames() -> None:
    seen = set()
    for _ in range(30):
        (video,) = of_size(size=8, crop={"scale": (0.25, 0.25)})({"video": placed(4)})["video"]
        assert video.shape == (3, 4, 8, 8)
        left, top = int(video[0, 0, 0, 0]) // 16, int(video[1, 0, 0, 0]) // 16
        assert (video[0] // 16 == torch.arange(left, left + 8)).all()
        assert (video[1] // 16 == torch.arange(top, top + 8)[:, None]).all()
        seen.add((left, top))
    assert len(seen) > 10
    (mirrored,) = of_size(flip={"p": 1.0})({"video": placed(4)})["video"]
    assert (mirrored[0] // 16 == torch.arange(15, -1, -1)).all()
    assert (mirrored[1] // 16 == torch.arange(16)[:, None]).all()


def test_grey_is_luma_and_colours_are_those_of_cells_before() -> None:
    film = torch.rand(2, 3, 4, 8, 8)
    seen = of_size(size=8)
    made = seen.on_device(Batch({"video": [film]}, extra={"video_present": present(1, 0)}))
    luma = 0.299 * film[:, 0] + 0.587 * film[:, 1] + 0.114 * film[:, 2]
    torch.testing.assert_close(made.views["video"][0], luma[:, None].expand(-1, 3, -1, -1, -1))
    expected = torch.stack([
        torch.stack([lab(film[:, :, t])[:, 1:, i : i + 4, j : j + 4].mean((2, 3)) for i in (0, 4) for j in (0, 4)], 2)
        for t in range(4)
    ], dim=1).view(2, 4, 2, 2, 2)  # fmt: skip
    torch.testing.assert_close(made.extra["colors"], expected)
    assert made.extra["video_present"].tolist() == [True, False] and made.target is None
    assert torch.equal(of_size(size=8, gray=False).on_device(Batch({"video": [film]})).views["video"][0], film)


def test_sides_divide_into_cells_also_where_the_crop_says_them() -> None:
    of_size(size=12)
    of_size(size=14, crop={"size": 12})
    for size, crop in ((14, {}), (12, {"size": 14})):
        with pytest.raises(UserError, match="frames of 14 pixels do not divide into cells of 4"):
            of_size(size=size, crop=crop)
