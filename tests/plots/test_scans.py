"""Matched scans and coloured clouds: which points, poses, lines and colours, each by what it must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from given import defaults, give
from PIL import Image
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from mmssl.encoders import create_encoder
from mmssl.errors import UserError
from mmssl.modalities.points import Cloud
from mmssl.plots import pca, register
from mmssl.plots.canvas import tiles
from mmssl.plots.register import GREY, RIGHT, WRONG, drawn, shaded
from mmssl.plots.scatter import dots, look_down, on_canvas
from mmssl.transforms.pairs import POSES
from mmssl.types import Encoder, Features, Head, Ragged, Trained


class Places(Encoder):
    """Knows points by where they lie about the cloud's mean."""

    modality = "points"

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.options = 3, {}
        self.preprocess = create_encoder("pointnet", widths=[4, 4]).preprocess
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.shown: list[Tensor] = []

    def forward(self, x: Ragged) -> Features:
        assert not self.training and torch.is_inference_mode_enabled()
        self.shown.append(x.values)
        return Features(x.values[:, :3].mean(0, keepdim=True), x.values[:, :3], lengths=x.lengths)


class Flipped(Head):
    def forward(self, features: Features) -> Tensor:
        assert features.tokens is not None
        return -features.tokens.flip(1)


def trained(encoder: Encoder | None = None) -> Trained:
    return Trained({"points": encoder or Places()})


def test_defaults() -> None:
    assert defaults(pca.plot) == {
        "count": 6,
        "encoder": None,
        "space": None,
        "foreground": False,
        "pose": None,
        "voxel": 0.025,
        "up": "-y",
        "side": None,
    }
    assert defaults(register.plot) == {
        "count": 6,
        "encoder": "points",
        "space": None,
        "poses": POSES,
        "voxel": 0.05,
        "rotation": "any",
        "threshold": 0.1,
        "lines": 60,
        "side": 420,
    }
    assert (RIGHT, WRONG, GREY) == ((40, 160, 60), (215, 60, 50), 150)


def principal(x: np.ndarray) -> np.ndarray:
    """The first three components by numpy, from 0 to 1 between their 2nd and 98th percentile; signs are free."""
    x = x - x.mean(0)
    parts = x @ np.linalg.svd(x, full_matrices=False)[2][:3].T
    low, high = np.percentile(parts, 2, axis=0), np.percentile(parts, 98, axis=0)
    return np.clip((parts - low) / (high - low), 0, 1)


def test_colours_are_principal_components_stretched_over_all_but_the_ends() -> None:
    x = np.random.normal(size=(200, 5)) * (1, 5, 3, 0.5, 2) + 7
    found, expected = pca.principal_colors(torch.from_numpy(x).float()), principal(x)
    assert found.shape == (200, 3) and found.dtype == np.uint8
    for part in range(3):
        either = [np.abs(found[:, part] - 255 * unit).max() for unit in (expected[:, part], 1 - expected[:, part])]
        assert min(either) < 0.6
    assert pca.principal_colors(torch.ones(5, 4)).max() == 0, "alike features have one colour"


def clouds(count: int, poses: list[np.ndarray] | None = None) -> list[dict[str, Any]]:
    made = []
    for n in range(count):
        meta = {"at": {"pose": (poses[n] if poses else np.eye(4)).tolist()}}
        made.append({"points": Cloud(np.random.uniform(-1, 1, (60, 3)) * (2, 1, 3)), "meta": meta})
    return made


@pytest.mark.parametrize("up", ["-y", "z"])
@pytest.mark.parametrize("space", [None, "flip"])
def test_clouds_are_drawn_as_seen_in_the_colours_of_all_together(
    up: Any, space: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, encoder = clouds(5), Places()
    encoder.spaces["flip"] = Flipped()
    give(monkeypatch, "mmssl.plots.pca", samples)
    [(name, image)] = pca.plot(trained(encoder), data={}, count=4, voxel=0.8, up=up, side=50, space=space)
    features, shown = [], []
    for sample in samples[:4]:
        xyz, seen = sample["points"].xyz, set()
        kept = []
        for n, cell in enumerate(map(tuple, np.floor(xyz / 0.8).astype(int).tolist())):
            if cell not in seen:  # one point of each cube, the first
                seen.add(cell)
                kept.append(n)
        xyz = xyz[kept]
        assert len(kept) < 60
        shown.append(xyz if up == "-y" else np.stack([xyz[:, 0], -xyz[:, 2], xyz[:, 1]], axis=1))
        tokens = torch.from_numpy(xyz - xyz.mean(0)).float()
        tokens = tokens if space is None else -tokens.flip(1)
        features.append(tokens / tokens.norm(dim=1, keepdim=True))
    colors = pca.principal_colors(torch.cat(features))
    row, start = [], 0
    for xyz in shown:
        seen_by = look_down(xyz)
        row.append(dots(on_canvas(seen_by, 50), seen_by[:, 2], colors[start : start + len(xyz)], 50))
        start += len(xyz)
    assert name == "pca"
    expected = np.asarray(tiles([row[:3], row[3:]])).astype(int)
    assert image.size == expected.shape[1::-1]
    assert (np.abs(np.asarray(image) - expected).max(2) > 2).mean() < 0.01


def test_clouds_are_brought_upright_before_they_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = Rotation.from_euler("xyz", [0.3, -1, 2]).as_matrix(), (4, 5, 6)
    samples, encoder = clouds(1, [pose]), Places()
    source = give(monkeypatch, "mmssl.plots.pca", samples)
    list(pca.plot(trained(encoder), data={}, pose="at.pose", voxel=1e-6))
    turned = samples[0]["points"].xyz @ pose[:3, :3].T
    np.testing.assert_allclose(encoder.shown[0], turned - turned.mean(0), atol=1e-5)
    list(pca.plot(trained(encoder), data={}, voxel=1e-6))
    plain = samples[0]["points"].xyz
    np.testing.assert_allclose(encoder.shown[1], plain - plain.mean(0), atol=1e-5)
    assert source.asked == [{"points", "meta"}, {"points"}]


def test_without_a_whole_cloud_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "mmssl.plots.pca", [{"points": None}])
    with pytest.raises(UserError, match="the data has no whole cloud"):
        list(pca.plot(trained(), data={}))
    give(monkeypatch, "mmssl.plots.register", [{"points": Cloud(np.zeros((3, 3))), "points_b": None, "meta": {}}])
    with pytest.raises(UserError, match="the data has no whole pair of clouds"):
        list(register.plot(trained(), data={}))
    for module in (pca, register):
        with pytest.raises(UserError, match="no space 'nope'"):
            list(module.plot(trained(), data={}, space="nope"))


def test_what_is_far_is_paler() -> None:
    pixels, seen = np.array([[3.0, 3.0], [10.0, 10.0], [15.0, 3.0]]), np.array([[0.0, 0, 5], [0, 0, 1], [0, 0, 2]])
    found = shaded(pixels, seen, 20)
    for (column, row), grey in zip(pixels.astype(int), (210, 60, 97), strict=True):
        assert found[row, column].tolist() == [grey] * 3
    flat = shaded(pixels, np.ones((3, 3)), 20)
    assert flat[3, 3].tolist() == [60] * 3
    both = shaded(np.array([[5.0, 5.0], [5.0, 5.0]]), np.array([[0.0, 0, 2], [0, 0, 1]]), 10)
    assert both[5, 5].tolist() == [60] * 3, "the nearest is on top"


class Pen:
    """Stands in for a pen: notes its lines."""

    lines: list[Any]

    def __init__(self, canvas: Image.Image) -> None:
        self.size = canvas.size
        Pen.lines = []

    def line(self, ends: Any, *, fill: Any) -> None:
        Pen.lines.append((tuple(np.round(ends, 6)), fill))


@pytest.mark.parametrize(("lines", "count"), [(10, 10), (60, 40)])
def test_lines_join_matched_points_the_right_ones_last_and_in_their_share(
    lines: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [np.random.uniform(-1, 1, (50, 3)) for _ in range(2)]
    pairs = np.stack([np.random.permutation(50)[:40], np.random.randint(0, 50, 40)], axis=1)
    right = np.arange(40) % 4 == 0
    titles: list[Any] = []
    monkeypatch.setattr("mmssl.plots.register.ImageDraw.Draw", Pen)
    monkeypatch.setattr("mmssl.plots.register.tiles", lambda rows, titles: (rows, titles))
    ((tile,),), titles = drawn(seen, pairs, right, lines=lines, side=100)  # type: ignore[misc]
    assert titles == [["25% of 40 mutual matches are right"]] and tile.shape == (100, 200, 3)
    assert (tile == np.concatenate([shaded(on_canvas(s, 100), s, 100) for s in seen], axis=1)).all()
    places = [on_canvas(points, 100) for points in seen]
    known = {}
    for (a, b), good in zip(pairs, right, strict=True):
        ends = tuple(np.round([*places[0][a], places[1][b][0] + 100, places[1][b][1]], 6))
        known[ends] = RIGHT if good else WRONG
    assert len(Pen.lines) == len({ends for ends, _ in Pen.lines}) == count
    assert all(known[ends] == fill for ends, fill in Pen.lines)
    fills = [fill for _, fill in Pen.lines]
    assert fills == sorted(fills, key=[WRONG, RIGHT].index)
    assert abs(fills.count(RIGHT) - count / 4) <= 1


def test_without_a_match_nothing_is_right() -> None:
    seen = [np.random.uniform(-1, 1, (5, 3)) for _ in range(2)]
    none = drawn(seen, np.zeros((0, 2), int), np.zeros(0, bool), lines=5, side=20)
    expected = tiles(
        [[np.concatenate([shaded(on_canvas(s, 20), s, 20) for s in seen], axis=1)]],
        titles=[["0% of 0 mutual matches are right"]],
    )
    assert (np.asarray(none) == np.asarray(expected)).all()


def pose(*angles: float) -> np.ndarray:
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = Rotation.from_euler("xyz", angles).as_matrix(), angles
    return found


def scans(count: int) -> list[dict[str, Any]]:
    """Two scans of one scene, each in its own camera's frame."""
    made = []
    for n in range(count):
        world = np.random.uniform(-1, 1, (80, 3))
        poses = {"points_a": pose(0.3, 0.5, n), "points_b": pose(-1, 2, 0.4)}
        inside = [(world - p[:3, 3]) @ p[:3, :3] for p in poses.values()]
        meta = {role: {"camera_to_world": p.tolist()} for role, p in poses.items()}
        made.append({"points": Cloud(inside[0]), "points_b": Cloud(inside[1]), "meta": meta})
    return made


def test_both_scans_are_drawn_as_the_first_camera_saw_them(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, told = scans(3), list[Any]()
    del samples[1]["points_b"]
    source = give(monkeypatch, "mmssl.plots.register", samples)
    monkeypatch.setattr(register, "drawn", lambda *a, **o: told.append((a, o)) or a)
    options: Any = {"voxel": 1e-6, "rotation": "none", "lines": 7, "side": 33}
    found = list(register.plot(trained(), data={}, count=3, **options))
    assert [name for name, _ in found] == ["register_0", "register_1"]
    assert source.asked == [{"points", "points_b", "meta"}]
    for ((seen, pairs, right), how), sample in zip(told, (samples[0], samples[2]), strict=True):
        assert how == {"lines": 7, "side": 33}
        whole = look_down(sample["points"].xyz)
        for points in seen:
            assert len(points) == 80 and cKDTree(whole).query(points)[0].max() < 1e-4
        assert len(pairs) <= 80 and right.mean() < 1, "features know the place in each camera's own frame"
        apart = np.linalg.norm(seen[0][pairs[:, 0]] - seen[1][pairs[:, 1]], axis=1)
        assert ((apart <= 0.1) == right).all()


def test_scans_are_thinned_as_those_of_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    real = register.fixed_scans
    give(monkeypatch, "mmssl.plots.register", scans(1))
    monkeypatch.setattr(register, "fixed_scans", lambda sample, **o: told.append(o) or real(sample, **o))
    assert len(list(register.plot(trained(), data={}, voxel=0.3, rotation="vertical"))) == 1
    assert told == [{"poses": POSES, "voxel": 0.3, "points": 5000, "rotation": "vertical"}]


def test_matches_are_mutual_and_right_within_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    give(monkeypatch, "mmssl.plots.register", [{"points": s["points"], "points_b": s["points_b"]} for s in scans(2)])
    monkeypatch.setattr(register, "drawn", lambda *a, **o: told.append(a) or a)
    encoder = Places()
    encoder.spaces["flip"] = Flipped()
    for space, threshold in ((None, 0.1), (None, 9.0), ("flip", 0.1)):
        list(register.plot(trained(encoder), data={}, count=1, space=space, poses=None, threshold=threshold))
    (seen, pairs, right), (_, _, lax), (_, other, _) = told
    assert lax.all() and not right.all()
    x = [shown[:, :3] / shown[:, :3].norm(dim=1, keepdim=True) for shown in encoder.shown[:2]]
    far = torch.cdist(x[0], x[1])
    mutual = [[a, int(far[a].argmin())] for a in range(len(far)) if int(far[:, int(far[a].argmin())].argmin()) == a]
    assert pairs.tolist() == mutual and len(other) > 0
    near = np.linalg.norm(seen[0][pairs[:, 0]] - seen[1][pairs[:, 1]], axis=1) <= 0.1
    assert (near == right).all()
