"""Label propagation: J and F against plain loops, the protocol against a plain one, and a whole evaluation."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmssl.data.subset import Subset
from mmssl.encoders import create_encoder
from mmssl.errors import DamagedError, UserError
from mmssl.evals.parts import propagation
from mmssl.evals.parts.annotated import annotated
from mmssl.evals.parts.propagation import carried, cells_of, moved, propagate
from mmssl.evals.parts.regions import boundary, jaccard, outline
from mmssl.evals.parts.report import reporting
from mmssl.evals.propagate import Propagate
from mmssl.modalities import video
from mmssl.types import Encoder, Features, Trained


def edges(mask: list[list[bool]]) -> list[tuple[int, int]]:
    """The pixels that differ from the next one to the right, below, or both."""
    height, width = len(mask), len(mask[0])
    found = []
    for y in range(height):
        for x in range(width):
            down, right = min(y + 1, height - 1), min(x + 1, width - 1)
            if len({mask[y][x], mask[down][x], mask[y][right], mask[down][right]}) > 1:
                found.append((y, x))
    return found


def plain_f(mine: np.ndarray, truth: np.ndarray) -> float:
    """The boundary measure, pixel by pixel."""
    height, width = mine.shape
    reach = math.ceil(0.008 * math.hypot(height, width))

    def share(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> float:
        near = [any((y - v) ** 2 + (x - u) ** 2 <= reach**2 for v, u in others) for y, x in some]
        return sum(near) / len(near)

    a, b = edges(mine.tolist()), edges(truth.tolist())
    if not a or not b:
        return 1.0 if not a and not b else 0.0
    precision, recall = share(a, b), share(b, a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def masks() -> list[np.ndarray]:
    """Hand-made masks of 24 x 130 pixels, where an outline may be two pixels off."""
    y, x = np.mgrid[:24, :130]
    square, disk = (abs(y - 12) < 7) & (abs(x - 60) < 7), (y - 13) ** 2 + (x - 61) ** 2 < 60
    at_side, empty = x < 12, np.zeros_like(square)
    return [square, disk, np.roll(square, 2, 1), np.roll(square, 3, 1), at_side, at_side | disk, empty, ~empty]


def test_j_and_f_equal_plain_loops_on_hand_made_masks() -> None:
    made = masks()
    pairs = [(a, b) for a in made for b in made]
    mine, truth = (torch.from_numpy(np.stack(side)) for side in zip(*pairs, strict=True))
    found_j, found_f = jaccard(mine, truth), boundary(mine, truth)
    for (a, b), j, f in zip(pairs, found_j.tolist(), found_f.tolist(), strict=True):
        union = int((a | b).sum())
        assert j == pytest.approx(int((a & b).sum()) / union if union else 1.0)
        assert f == pytest.approx(plain_f(a, b), abs=1e-6)
    shifted, far = boundary(*(torch.from_numpy(np.stack(s)) for s in ((made[2], made[3]), (made[0], made[0]))))
    assert shifted == 1 and far < 1, "two pixels off are forgiven, three are not"
    assert not outline(torch.ones(1, 5, 5, dtype=torch.bool)).any()


def plain_propagate(
    cells: torch.Tensor, labels: torch.Tensor, context: int, radius: float, topk: int, tau: float
) -> Any:
    time, height, width, _ = cells.shape
    found = [labels]
    for now in range(1, time):
        out = torch.zeros_like(labels)
        for y in range(height):
            for x in range(width):
                near = []
                for then in [0, *[t for t in range(now - context, now) if t > 0]]:
                    for v in range(height):
                        for u in range(width):
                            if (v - y) ** 2 + (u - x) ** 2 <= radius**2:
                                near.append((float(cells[now, y, x] @ cells[then, v, u]), found[then][:, v, u]))
                best = sorted(near, key=lambda pair: -pair[0])[:topk]
                weights = torch.tensor([score / tau for score, _ in best]).softmax(0)
                out[:, y, x] = sum(w * value for w, (_, value) in zip(weights, best, strict=True))
        found.append(out)
    return torch.stack(found)


@pytest.mark.parametrize("held", [2**24, 150], ids=["at once", "row by row"])
def test_the_protocol_equals_plain_loops(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagation, "HELD", held)
    cells = torch.nn.functional.normalize(torch.randn(5, 4, 6, 3), dim=3)
    labels = torch.rand(2, 4, 6)
    found = propagate(cells[None], labels[None], context=2, radius=2.3, topk=3, temperature=0.2)[0]
    torch.testing.assert_close(found, plain_propagate(cells, labels, 2, 2.3, 3, 0.2))


def moving(frames: int = 8, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells that are one vector on a square that steps right, others elsewhere; and its mask."""
    mask = torch.zeros(frames, side, side, dtype=torch.long)
    for t in range(frames):
        mask[t, 4:8, 2 + t : 6 + t] = 7
    cells = torch.stack([(mask == 0).float(), (mask == 7).float()], dim=-1)
    return cells, mask


def test_perfect_cells_carry_masks_and_points() -> None:
    cells, mask = moving()
    assert torch.equal(carried(cells, mask[0], topk=1), mask)
    distinct = torch.nn.functional.one_hot(torch.arange(256), 256).float().view(16, 16, 256)
    rolled = torch.stack([distinct.roll(t, 1) for t in range(4)])
    points = torch.tensor([[3.5, 5.5], [6.5, 9.5]]) / 16
    found = moved(rolled, points, topk=1)
    for t in range(4):
        torch.testing.assert_close(found[t], points + torch.tensor([t / 16, 0]))


class Colors(Encoder):
    """Gives every second pixel's colour as a cell, of videos or images."""

    dim = 3

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality, self.options = modality, {}
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.preprocess = create_encoder("convnet", image_size=32).preprocess

    def forward(self, x: torch.Tensor) -> Features:
        small = (x.float() - 128)[..., ::2, ::2]
        return Features(small.flatten(2).mean(2), small.flatten(2).mT, grid=tuple(small.shape[2:]))


def packed(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of two squares that drift apart; one without its masks' length, one with masks of another shape."""
    import webdataset

    folder = tmp_path_factory.mktemp("clips")
    with webdataset.TarWriter(str(folder / "0.tar")) as writer:
        for number in range(5):
            pixels = np.full((10, 32, 64, 3), (40, 220, 40), dtype=np.uint8)
            mask = np.zeros((10, 32, 64), dtype=np.uint8)
            tracks = np.zeros((10, 2, 2), dtype=np.float32)
            for t in range(10):
                for k, (left, color) in enumerate(((24 - 2 * t, (255, 0, 0)), (28 + 2 * t, (0, 0, 255)))):
                    pixels[t, 8:20, left : left + 8], mask[t, 8:20, left : left + 8] = color, k + 1
                    tracks[t, k] = left + 4, 14
            mask = {3: mask[:7], 4: mask[:, :, :40]}.get(number, mask)
            sample = {"__key__": str(number), "mp4": video.encode(pixels, fps=10, quality=4)}
            sample |= {"json": json.dumps({"fps": 10}).encode(), "masks.npz": packed(masks=mask)}
            writer.write(sample | ({"tracks.npz": packed(tracks=tracks)} if number < 3 else {}))
    return folder


@pytest.mark.parametrize("modality", ["video", "image"])
def test_a_good_encoder_beats_the_copy_of_the_first_mask(modality: str, shards: Path) -> None:
    made = Propagate(data={"shards": str(shards)}, encoder=modality, radius=4)
    with reporting() as report:
        scores = dict(made.run(Trained({modality: Colors(modality)})))
    assert scores["J&F"].n == 6, "two objects each in three clips"
    assert scores["J&F"].value == pytest.approx((scores["J"].value + scores["F"].value) / 2)
    assert scores["J"].trivial is not None
    assert scores["J"].value > 0.8 > scores["J"].trivial + 0.3
    assert 0 < scores["J"].chance < scores["J"].trivial
    assert scores["PCK@0.1"].n == 6
    assert scores["PCK@0.2"].trivial is not None
    assert scores["PCK@0.2"].value > scores["PCK@0.2"].trivial + 0.2
    assert scores["PCK@0.1"].value <= scores["PCK@0.5"].value
    assert report.counts() == {
        "annotations of another length than the clip": 1,
        "masks of another shape than the frames": 1,
    }


def test_the_figure_of_the_copy_is_that_of_the_first_mask(shards: Path) -> None:
    made = Propagate(data={"shards": str(shards)})
    made.source = Subset(made.source, [0])
    scores = dict(made.run(Trained({"video": Colors("video")})))
    mask = np.zeros((2, 10, 32, 64), dtype=bool)
    for t in range(10):
        mask[0, t, 8:20, 24 - 2 * t : 32 - 2 * t] = mask[1, t, 8:20, 28 + 2 * t : 36 + 2 * t] = True
    mask[0] &= ~mask[1]
    figures = []
    for k in range(2):
        for t in range(1, 9):  # neither the first nor the last frame counts
            union = (mask[k, 0] | mask[k, t]).sum()
            figures.append(((mask[k, 0] & mask[k, t]).sum() / union + plain_f(mask[k, 0], mask[k, t])) / 2)
    assert scores["J&F"].trivial == pytest.approx(np.mean(figures))


def test_random_weights_are_measured_beside(shards: Path) -> None:
    torch.manual_seed(3)
    encoder = create_encoder("frames", image={"name": "convnet", "image_size": 32, "widths": [8], "depths": [1]})
    made = Propagate(
        data={"shards": str(shards)}, baselines=True, limit=2, grayscale=True, size=64, square=True, window=4
    )
    first, second = (dict(made.run(Trained({"video": encoder}))) for _ in range(2))
    assert first == second
    assert first["random_init/J"].n == first["J"].n == 2, "of the two that are drawn one does not fit"
    assert first["random_init/J"].value != first["J"].value
    assert cells_of(encoder, torch.zeros(5, 3, 32, 64, dtype=torch.uint8), window=2).shape == (5, 8, 16, 8)


def test_what_does_not_fit_is_one_clear_error(shards: Path, color_shards: Path) -> None:
    with pytest.raises(UserError, match="no encoder 'image'"):
        list(Propagate(data={"shards": str(shards)}, encoder="image").run(Trained({"video": Colors("video")})))
    with pytest.raises(UserError, match="has no space 'clip'"):
        list(Propagate(data={"shards": str(shards)}, space="clip").run(Trained({"video": Colors("video")})))
    with pytest.raises(UserError, match="neither masks nor tracks"):
        list(Propagate(data={"shards": str(color_shards)}).run(Trained({"video": Colors("video")})))
    pooled = torch.nn.Module()
    pooled.modality, pooled.device = "video", torch.device("cpu")
    pooled.forward = lambda x: Features(torch.zeros(len(x), 4))
    with pytest.raises(UserError, match="from cell to cell"):
        cells_of(pooled, torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    frames = video.Frames(np.zeros((6, 8, 8, 3), dtype=np.uint8), 6.0)
    for arrays, reason in (
        ({"masks": {"masks": np.zeros((6, 8, 8))}}, "whole numbers"),
        ({"masks": {"masks": np.zeros((2, 8, 8), dtype=np.uint8)}}, "fewer than three"),
        ({"tracks": {"tracks": np.zeros((6, 4))}}, "tracks that are not"),
        ({}, "without masks or tracks"),
    ):
        with pytest.raises(DamagedError, match=reason):
            annotated({"video": frames, **arrays}, size=8)
